"""The Dask cluster that ctpatch starts on this machine answers nobody else on it."""

import socket
import ssl
import sys
from urllib.parse import urlsplit

import pytest

pytest.importorskip("distributed", reason="the extra dask is not installed")

import distributed

from ctpatch.errors import UsageError
from ctpatch.work.executors.choose import engine_executor
from ctpatch.work.executors.dask import DaskExecutor


def test_a_cluster_without_its_key_is_closed() -> None:
    """Another account knows the addresses at most: neither without TLS nor with a key of its own does it get in."""
    pytest.importorskip("cryptography", reason="the extra dask is not installed")
    with engine_executor("dask", workers=1) as executor:
        assert isinstance(executor, DaskExecutor)
        assert executor.workers() == 1
        info = executor._client.scheduler_info()
        addresses = [info["address"]]
        for address, worker in info["workers"].items():
            addresses += [address, worker["nanny"]]
        assert len(addresses) == 3
        for address in addresses:
            assert address.startswith("tls://127.0.0.1:")
            assert not answers_in_clear(address)
            assert refuses_without_certificate(address)
        plain = addresses[0].replace("tls://", "tcp://")
        own = distributed.security.Security.temporary()
        for where, security in ((plain, None), (plain, own), (addresses[0], own)):
            with pytest.raises((OSError, TypeError, ValueError, RuntimeError)):
                distributed.Client(where, security=security, timeout="1s")
        # It still does its work.
        assert [done.result for done in executor.run(pow, 2, [3, 4])] == [8, 16]  # type: ignore[union-attr]


def place_of(address: str) -> tuple[str, int]:
    parts = urlsplit(address)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def answers_in_clear(address: str) -> bool:
    """Whether the port says anything, as Dask's do without TLS: they begin with what they are."""
    with socket.create_connection(place_of(address), timeout=60) as connection:
        connection.sendall(b"\x00" * 64)
        try:
            answer = connection.recv(4096)
        except ConnectionResetError:
            return False
    # Of TLS nothing but an alert: record type 21.
    return answer != b"" and answer[0] != 21


def refuses_without_certificate(address: str) -> bool:
    """Whether the port ends a TLS connection that has no key, before it says a byte."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(place_of(address), timeout=60) as connection,
            context.wrap_socket(connection) as tls,
        ):
            return tls.recv(1) == b""
    except (ssl.SSLError, ConnectionError):
        return True


def test_without_the_package_for_keys_no_open_cluster_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography", None)
    started: list[object] = []
    monkeypatch.setattr(distributed, "LocalCluster", lambda **options: started.append(options))
    with (
        pytest.raises(UsageError, match=r"needs the package cryptography.*pip install 'ctpatch\[dask\]'"),
        engine_executor("dask", workers=1),
    ):
        pass
    assert started == []
