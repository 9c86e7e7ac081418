"""One contract for everything that runs parts: same bytes, whoever dies, stops or takes over."""

import importlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.config import BuildConfig
from ctpatch.cutting.work import CutWork, make_set
from ctpatch.errors import ConfigError, RangeError, SystemFailureError, UsageError, WorkerLostError
from ctpatch.events import Event, WorkAdvanced, ignore
from ctpatch.testing.executors import DEADLINE, plus_double, wait_until
from ctpatch.work.executors.choose import as_executor, engine_executor
from ctpatch.work.executors.futures import FuturesExecutor
from ctpatch.work.executors.processes import ProcessExecutor
from ctpatch.work.executors.serial import SerialExecutor
from deadly_work import POISONED, WOUNDED, probe_or_die, run_part_or_die
from helpers import (
    LAYOUTS,
    SMALL,
    Heard,
    Prepared,
    assert_same_tree,
    build_one,
    make_split,
    small_parts,
    tree_bytes,
)

build_module = importlib.import_module("ctpatch.cutting.api")
needs_kill = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="the system has no SIGKILL")
needs_dask = pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="the extra dask is not installed"
)

ENGINES = ("serial", "processes", "threads", "pool", "dask")
OF_PROCESSES = ("processes", "pool", "dask")
SHAPES = [(40, 50)] * 7 + [(30, 30)] + [(40, 50)] * 4
PARTS = 6


class Engines:
    """Makes each executor when it is asked for; one Dask cluster for the whole module."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._client: Any = None
        self._pool: ProcessPoolExecutor | None = None

    @property
    def client(self) -> Any:
        if self._client is None:
            distributed = pytest.importorskip("distributed", reason="the extra dask is not installed")
            dask = importlib.import_module("dask")
            # As few deaths as will do, since a worker takes a second to come back; and it is waited for until it is.
            self._stack.enter_context(
                dask.config.set(
                    {"distributed.scheduler.allowed-failures": 1, "distributed.deploy.lost-worker-timeout": "1 day"}
                )
            )
            cluster = self._stack.enter_context(
                distributed.LocalCluster(
                    n_workers=2,
                    threads_per_worker=1,
                    host="127.0.0.1",
                    dashboard_address="127.0.0.1:0",
                    silence_logs=50,
                )
            )
            self._client = self._stack.enter_context(distributed.Client(cluster))
        return self._client

    def make(self, name: str) -> Any:
        if name == "dask":
            return as_executor(self.client, 1)
        if name == "serial":
            return SerialExecutor()
        if name == "processes":
            return ProcessExecutor(2)
        if name == "threads":
            return FuturesExecutor(self._stack.enter_context(ThreadPoolExecutor(2)))
        if self._pool is None:
            context = multiprocessing.get_context("spawn")
            self._pool = self._stack.enter_context(ProcessPoolExecutor(2, context))
        return FuturesExecutor(self._pool)

    def new_pool(self) -> None:
        """Give up the one there is, since it broke or will."""
        self._pool = None


@pytest.fixture(scope="module")
def engines() -> Iterator[Engines]:
    with ExitStack() as stack:
        yield Engines(stack)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """The bytes of each layout as this process alone writes them."""
    root = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        small_parts(patch, slices=2, packed_windows=40)
        prepared = make_split(root, SHAPES)
        found = {}
        for layout in LAYOUTS:
            build_one(prepared, layout=layout, overwrite=True)
            found[layout] = tree_bytes(prepared.out)
    return found


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    small_parts(monkeypatch, slices=2, packed_windows=40)


@pytest.fixture
def prepared(tmp_path: Path) -> Prepared:
    return make_split(tmp_path, SHAPES)


class Deadly(CutWork):
    """A build whose slices may end the process that cuts them."""

    run = staticmethod(run_part_or_die)
    probe = staticmethod(probe_or_die)


def build_with_deaths(prepared: Prepared, executor: Any, **options: Any) -> ctpatch.BuildResult:
    skip = options.get("on_error") == "skip"
    plan = ctpatch.plan(prepared.folder, config=SMALL, skip_faulty=skip)[0]
    return make_set(Deadly(plan, prepared.out, BuildConfig(**options)), executor, ignore)


def test_a_pool_that_was_shut_down_is_said_to_be() -> None:
    pool = ThreadPoolExecutor(1)
    pool.shutdown()
    with pytest.raises(SystemFailureError, match="the executor was shut down"):
        list(FuturesExecutor(pool).run(plus_double, 0, [1]))


# Builds.


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ENGINES)
def test_same_bytes(engines: Engines, whole: dict[str, Any], prepared: Prepared, name: str, layout: Any) -> None:
    heard = Heard()
    result = build_one(prepared, layout=layout, executor=engines.make(name), listener=heard)
    assert result.outcome == "built"
    assert_same_tree(tree_bytes(prepared.out), whole[layout])
    steps = sum(event.steps for event in heard.events if isinstance(event, WorkAdvanced))
    assert steps == len(SHAPES)


@pytest.mark.parametrize("name", ENGINES)
def test_verify_and_convert(engines: Engines, whole: dict[str, Any], prepared: Prepared, name: str) -> None:
    build_one(prepared, layout="slices")
    executor = engines.make(name)
    assert ctpatch.verify(prepared.out, deep=True, executor=executor).ok
    other = prepared.root / "patches" / "phantoms" / "other"
    ctpatch.convert(prepared.out, other, layout="files", executor=executor)
    assert {name for name in tree_bytes(other) if name.endswith(".npy")} == {
        name for name in whole["files"] if name.endswith(".npy")
    }
    shard = prepared.out / "shards" / "train_00000.npy"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    report = ctpatch.verify(prepared.out, executor=executor)
    assert report.counts["digest"] == 1


@needs_kill
@pytest.mark.parametrize("name", OF_PROCESSES)
def test_a_worker_killed_in_the_middle_of_a_part_changes_nothing(
    engines: Engines, whole: dict[str, Any], prepared: Prepared, name: str
) -> None:
    mark = prepared.root / WOUNDED
    mark.write_text(prepared.paths["image"][5])
    if name == "pool":
        with pytest.raises(SystemFailureError, match="parts that were done are kept"):
            build_with_deaths(prepared, engines.make(name))
        engines.new_pool()
    result = build_with_deaths(prepared, engines.make(name))
    assert not mark.exists()
    assert result.complete
    assert_same_tree(tree_bytes(prepared.out), whole["files"])


@needs_kill
@pytest.mark.parametrize("name", ["processes", "dask"])
def test_a_poisoned_slice_is_named_and_the_rest_is_done(engines: Engines, prepared: Prepared, name: str) -> None:
    (prepared.root / POISONED).write_text(prepared.paths["image"][5])
    with pytest.raises(WorkerLostError) as error:
        build_with_deaths(prepared, engines.make(name))
    assert prepared.paths["image"][5] in error.value.message
    assert prepared.paths["image"][4] not in error.value.message
    assert len(list((prepared.out / ".ctpatch").glob("*.receipt.json"))) == PARTS - 1


@needs_kill
@needs_dask
def test_a_poisoned_slice_is_left_out_where_that_is_wanted(engines: Engines, prepared: Prepared) -> None:
    (prepared.root / POISONED).write_text(prepared.paths["image"][5])
    result = build_with_deaths(prepared, engines.make("dask"), on_error="skip")
    assert not result.complete
    assert result.meta.num_slices == len(SHAPES) - 1
    assert [prepared.paths["image"][5] in reason for reason in result.skipped] == [True]
    (prepared.root / POISONED).unlink()
    assert ctpatch.verify(prepared.out, deep=True).ok


@pytest.mark.parametrize("name", ENGINES)
def test_a_faulty_slice_stops_the_build_or_is_left_out(engines: Engines, prepared: Prepared, name: str) -> None:
    image = np.load(prepared.file(5))
    image[3, 4] = np.nan
    np.save(prepared.file(5), image)
    with pytest.raises(RangeError, match="holds nan at row 3, col 4"):
        build_one(prepared, executor=engines.make(name))
    assert build_one(prepared, executor=engines.make(name), on_error="skip").meta.num_skipped == 1


@pytest.mark.parametrize("name", ENGINES)
def test_interrupted_and_resumed_on_the_next_engine(
    engines: Engines, whole: dict[str, Any], prepared: Prepared, name: str
) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, WorkAdvanced):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_one(prepared, executor=engines.make(name), listener=interrupt)
    state = prepared.out / ".ctpatch"
    receipts = {path.name: path.read_bytes() for path in state.glob("*.receipt.json")}
    assert 1 <= len(receipts) <= PARTS
    assert not list(state.glob("*.token"))
    other = ENGINES[(ENGINES.index(name) + 1) % len(ENGINES)]
    # What still stood in a queue would be worked on before this.
    assert len(list(engines.make(name).run(plus_double, 0, range(20)))) == 20
    assert {path.name for path in state.glob("*.receipt.json")} == set(receipts), "work went on behind the end"
    assert build_one(prepared, executor=engines.make(other)).outcome == "resumed"
    assert_same_tree(tree_bytes(prepared.out), whole["files"])


# What workers see.


class Elsewhere:
    """An executor whose workers find other files and other software, as it is told."""

    def __init__(self, prepare: Any) -> None:
        self._prepare = prepare

    def run(self, *_work: Any) -> Iterator[Any]:
        raise AssertionError("work began")

    def everywhere(self, function: Any, argument: Any) -> dict[str, Any]:
        return {"tcp://node7:41": None, "tcp://node8:42": function(self._prepare(argument))}

    def workers(self) -> int:
        return 2


def without_first(landmarks: Any) -> Any:
    os.unlink(landmarks.files[0][0])
    return landmarks


def other_content(landmarks: Any) -> Any:
    path, _mark = landmarks.files[1]
    return replace(landmarks, files=((path, "0-0"),))


def other_version(landmarks: Any) -> Any:
    return replace(landmarks, software=(("ctpatch", "0.0.1"), *landmarks.software[1:]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without_first, r"worker tcp://node8:42 does not see …/train/\.ctpatch/seen-\w+\.token"),
        (other_content, r"worker tcp://node8:42 sees another …/phantoms/train/train_manifest\.csv"),
        (other_version, r"worker tcp://node8:42 runs ctpatch "),
        (lambda _landmarks: 1 / 0, None),
    ],
)
def test_workers_that_see_something_else_are_named_before_any_work(
    prepared: Prepared, change: Any, said: str | None
) -> None:
    if said is None:
        with pytest.raises(ZeroDivisionError):
            build_one(prepared, executor=Elsewhere(change))
    else:
        with pytest.raises(UsageError, match=said):
            build_one(prepared, executor=Elsewhere(change))
    assert not prepared.out.exists() or not list(prepared.out.glob("*.npy"))


def test_a_worker_that_cannot_run_ctpatch_is_named(prepared: Prepared) -> None:
    class Bare(Elsewhere):
        def everywhere(self, *_call: Any) -> dict[str, Any]:
            return {"tcp://node9:1": ModuleNotFoundError("No module named 'ctpatch'")}

    with pytest.raises(UsageError, match=r"worker tcp://node9:1 cannot run ctpatch .*No module named 'ctpatch'"):
        build_one(prepared, executor=Bare(None))


def can_unshare() -> bool:
    tool = shutil.which("unshare")
    return tool is not None and subprocess.run([tool, "-m", "true"], check=False, capture_output=True).returncode == 0


def names_of_workers(client: Any) -> set[Any]:
    return set(client.run_on_scheduler(lambda dask_scheduler: [each.name for each in dask_scheduler.workers.values()]))


@needs_dask
@pytest.mark.skipif(not can_unshare(), reason="no mount namespaces here: a worker cannot be shown another file system")
def test_a_worker_with_another_file_system_says_so_at_the_start(
    engines: Engines, whole: dict[str, Any], prepared: Prepared
) -> None:
    client = engines.client
    scheduler = client.scheduler.address
    worker = [sys.executable, "-m", "dask", "worker", scheduler, "--no-nanny", "--nthreads", "1", "--no-dashboard"]
    worker += ["--name", "stranger"]
    command = f'mount -t tmpfs tmpfs "{prepared.root}" && exec "$@"'
    with subprocess.Popen(
        ["unshare", "-m", "sh", "-c", command, "sh", *worker], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as stranger:
        try:
            wait_until(lambda: "stranger" in names_of_workers(client), "the worker has come")
            with pytest.raises(UsageError, match=r"worker tcp://127\.0\.0\.1:\d+ does not see …/train/\.ctpatch/seen-"):
                build_one(prepared, executor=client)
            assert not list(prepared.out.glob("*.npy"))
        finally:
            stranger.kill()
    wait_until(lambda: "stranger" not in names_of_workers(client), "the worker has gone")
    build_one(prepared, executor=client)
    assert_same_tree(tree_bytes(prepared.out), whole["files"])


# Choosing.


def test_what_an_executor_may_be() -> None:
    with pytest.raises(UsageError, match="got a str, wanted a concurrent"):
        as_executor("dask", 1)
    own = SerialExecutor()
    assert as_executor(own, 4) is own


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "processes", "scheduler": "tcp://localhost:1"}, "for the engine dask"),
        ({"scheduler_file": "scheduler.json"}, "for the engine dask"),
        ({"engine": "dask", "scheduler": "tcp://a:1", "scheduler_file": "b"}, "give only one"),
        ({"engine": "dask", "scheduler": "tcp://a:1", "workers": 2}, "leave --workers out"),
        ({"engine": "serial", "workers": 2}, "in this process alone"),
        ({"engine": "spark"}, "wanted serial, processes or dask"),
    ],
)
@needs_dask
def test_options_that_do_not_fit_together(options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said), engine_executor(**options):
        pass


@needs_dask
def test_a_scheduler_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(UsageError, match="is not there; start the scheduler first"),
        engine_executor("dask", scheduler_file=tmp_path / "none.json"),
    ):
        pass
    monkeypatch.setattr("ctpatch.work.executors.choose._CONNECT_SECONDS", "1s")
    with (
        pytest.raises(UsageError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"),
        engine_executor("dask", scheduler="tcp://127.0.0.1:9"),
    ):
        pass


def test_without_dask_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(UsageError, match=r"pip install 'ctpatch\[dask\]'"), engine_executor("dask"):
        pass


# The command line, whose workers wait at the slice 6 for a file; they import this as well.
COMMAND = """
import importlib, os, sys, time
from pathlib import Path
part = importlib.import_module("ctpatch.cutting.cut")
plan = importlib.import_module("ctpatch.cutting.plan")
plan.LIMITS = plan.PartLimits(slices=2)
real = part.cut_slice

def cut_slice(job, task, *rest):
    end = time.monotonic() + 120
    while task.slice_index >= 6 and not Path(os.environ["GATE"]).exists() and time.monotonic() < end:
        time.sleep(0.005)
    return real(job, task, *rest)

part.cut_slice = cut_slice
if __name__ == "__main__":
    from ctpatch.cli.app import main
    sys.exit(main())
"""


@needs_dask
@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C reaches a group of processes in another way there")
def test_ctrl_c_ends_a_command_cleanly_and_the_next_goes_on(
    prepared: Prepared, whole: dict[str, Any], tmp_path: Path
) -> None:
    script, gate, state = tmp_path / "command.py", tmp_path / "gate", prepared.out / ".ctpatch"
    script.write_text(COMMAND)
    command = [sys.executable, str(script), "build", str(prepared.folder), "--patch-size", "16", "--stride", "8"]
    with subprocess.Popen(
        [*command, "--engine", "dask", "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "GATE": str(gate)},
    ) as running:
        try:
            wait_until(lambda: list(state.glob("*.receipt.json")) or running.poll() is not None, "a part is done")
            os.killpg(running.pid, signal.SIGINT)
            gate.touch()  # the workers end what they are at, and begin no more
            _, said = running.communicate(timeout=DEADLINE)
        finally:
            running.kill()
    assert running.returncode == 130, said
    assert said == "interrupted; run the same command again to go on\n"
    assert not (prepared.out / "patch_meta.json").exists()
    assert build_one(prepared).outcome == "resumed"
    assert_same_tree(tree_bytes(prepared.out), whole["files"])
