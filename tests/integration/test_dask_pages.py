"""The Dask cluster that ctpatch starts on this machine shows nobody anything: no dashboard, no page of workers."""

from typing import Any
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest

pytest.importorskip("distributed", reason="the extra dask is not installed")

from ctpatch.work.executors.choose import engine_executor
from ctpatch.work.executors.dask import DaskExecutor

PAGES = ("", "status", "info/main/workers.html", "info/main/logs.html", "json/counts.json", "metrics", "health")


def status_of(port: int, page: str) -> int:
    try:
        with build_opener(ProxyHandler({})).open(f"http://127.0.0.1:{port}/{page}", timeout=60) as answer:
            status: int = answer.status
            return status
    except HTTPError as error:
        return error.code


def test_nothing_is_shown_that_nobody_asked_for() -> None:
    with engine_executor("dask", workers=1) as executor:
        assert isinstance(executor, DaskExecutor)
        assert executor.workers() == 1
        info: dict[str, Any] = executor._client.scheduler_info()
        shown = [info["services"]["dashboard"], *(each["services"]["dashboard"] for each in info["workers"].values())]
        assert len(shown) == 2
        assert {status_of(port, page) for port in shown for page in PAGES} == {404}
        assert 8787 not in shown
