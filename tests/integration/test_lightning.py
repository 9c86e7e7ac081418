"""Lightning trains on patch sets, and goes on from a checkpoint as if it had never stopped."""

import importlib.machinery
import importlib.util
import sys
import types
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ConfigError, UsageError
from helpers import build_one, make_split

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning warns of few batches, few workers and its own future
torch: Any = pytest.importorskip("torch", reason="torch is not installed")
BATCHES = 4
"""In an epoch: three full ones of 16 and one of 12."""


@pytest.fixture
def lightning() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("lightning.pytorch", reason="lightning is not installed; `make torch` installs it")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A set of sixty pairs of 16x16."""
    prepared = make_split(tmp_path, arrays={"target": np.float32})
    build_one(prepared)
    return prepared.out


def noisier(sample: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
    noise = torch.from_numpy(rng.normal(scale=0.1, size=tuple(sample["image"].shape)).astype(np.float32))
    return sample | {"image": sample["image"] + noise}


class Run:
    """Trainings of a tiny network on one set, with the same beginning."""

    def __init__(self, lightning: Any, folder: Path) -> None:
        self.lightning, self.folder = lightning, folder
        from ctpatch.torch import PatchLoader

        self.make: Any = partial(
            PatchLoader, folder, 16, arrays=["image", "target"], shuffle=True, seed=3,
            transform=ctpatch.per_patch(noisier),
        )  # fmt: skip
        self.seen: list[tuple[int, int, float]] = []

    def network(self) -> Any:
        torch.manual_seed(0)
        seen = self.seen

        class Network(self.lightning.LightningModule):  # type: ignore[misc, name-defined]
            def __init__(self) -> None:
                super().__init__()
                self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

            def training_step(self, batch: dict[str, Any], number: int) -> Any:
                seen.append((self.trainer.current_epoch, number, batch["image"].sum().item()))
                return torch.nn.functional.mse_loss(self.layer(batch["image"]), batch["target"])

            def validation_step(self, batch: dict[str, Any], _: int) -> None:
                self.log("loss", torch.nn.functional.mse_loss(self.layer(batch["image"]), batch["target"]))

            def configure_optimizers(self) -> Any:
                return torch.optim.Adam(self.parameters(), lr=0.01)

        return Network()

    def train(self, data: Any, *, resume: Path | None = None, network: Any = None, **options: Any) -> Any:
        """Train two epochs, and give what was learned."""
        network = network or self.network()
        trainer = self.lightning.Trainer(**{
            "max_epochs": 2, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
            "enable_model_summary": False, "enable_checkpointing": False, "num_sanity_val_steps": 0,
            "default_root_dir": self.folder.parent, **options,
        })  # fmt: skip
        trainer.fit(network, datamodule=data, ckpt_path=None if resume is None else str(resume))
        return {name: value.clone() for name, value in network.state_dict().items()}

    def data(self, **stages: Any) -> Any:
        from ctpatch.lightning import PatchDataModule

        return PatchDataModule(**{"train": self.make, **stages})


@pytest.fixture
def run(lightning: Any, folder: Path) -> Run:
    return Run(lightning, folder)


def saved_each_step(lightning: Any, folder: Path) -> Any:
    return lightning.callbacks.ModelCheckpoint(dirpath=folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)


@pytest.mark.parametrize("val", [False, True])
def test_a_training_resumed_at_any_batch_ends_with_the_same_weights(run: Run, tmp_path: Path, *, val: bool) -> None:
    stages = {"val": partial(run.make, shuffle=False, transform=None)} if val else {}
    kept = tmp_path / "kept"
    wanted = run.train(run.data(**stages), callbacks=[saved_each_step(run.lightning, kept)], enable_checkpointing=True)
    whole, run.seen[:] = list(run.seen), []
    assert [each[:2] for each in whole] == [(epoch, number) for epoch in range(2) for number in range(BATCHES)]
    assert len({each[2] for each in whole}) == 2 * BATCHES  # noise and order are new in each epoch
    for step in range(1, 2 * BATCHES):
        found = run.train(run.data(**stages), resume=kept / f"step={step}.ckpt")
        assert run.seen == whole[step:], step
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
        run.seen.clear()


def test_a_training_that_is_cut_off_goes_on_from_its_last_checkpoint(run: Run, tmp_path: Path) -> None:
    class Cut(run.lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == BATCHES + 2:
                raise ZeroDivisionError

    wanted = run.train(run.data())
    whole, run.seen[:] = list(run.seen), []
    saved = saved_each_step(run.lightning, tmp_path / "kept")
    with pytest.raises(ZeroDivisionError):
        run.train(run.data(), callbacks=[saved, Cut()], enable_checkpointing=True)
    found = run.train(run.data(), resume=tmp_path / "kept" / f"step={BATCHES + 2}.ckpt")
    assert run.seen == whole
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_checkpoints_at_the_end_of_an_epoch(run: Run, tmp_path: Path) -> None:
    saved = run.lightning.callbacks.ModelCheckpoint(
        dirpath=tmp_path, filename="{epoch}", every_n_epochs=1, save_top_k=-1
    )
    run.train(run.data(), callbacks=[saved], enable_checkpointing=True, max_epochs=3)
    whole, run.seen[:] = list(run.seen), []
    for epoch in range(2):
        run.train(run.data(), resume=tmp_path / f"epoch={epoch}.ckpt", max_epochs=3)
        assert run.seen == whole[(epoch + 1) * BATCHES :]
        run.seen.clear()


def test_checkpoints_after_validation_in_mid_epoch(run: Run, tmp_path: Path) -> None:
    saved = run.lightning.callbacks.ModelCheckpoint(
        dirpath=tmp_path, filename="{step}", save_top_k=-1, every_n_epochs=1, save_on_train_epoch_end=False
    )
    options: dict[str, Any] = {"val_check_interval": 2, "enable_checkpointing": True}
    stages = {"val": run.make}
    wanted = run.train(run.data(**stages), callbacks=[saved], **options)
    whole, run.seen[:] = list(run.seen), []
    for step in (2, 4, 6):
        found = run.train(run.data(**stages), resume=tmp_path / f"step={step}.ckpt", **options)
        assert run.seen == whole[step:]
        assert all(torch.equal(found[name], value) for name, value in wanted.items())
        run.seen.clear()


def test_a_checkpoint_that_was_only_validated_is_not_trained_from(run: Run, tmp_path: Path) -> None:
    run.train(run.data(), callbacks=[saved_each_step(run.lightning, tmp_path)], enable_checkpointing=True)
    whole, run.seen[:] = list(run.seen), []
    data, network = run.data(val=run.make), run.network()
    trainer = run.lightning.Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False
    )
    trainer.validate(network, data, ckpt_path=str(tmp_path / "step=2.ckpt"), verbose=False)
    run.train(data)
    assert run.seen == whole


def test_epochs_that_a_limit_ends_are_epochs(run: Run, tmp_path: Path) -> None:
    options: dict[str, Any] = {"limit_train_batches": 2, "max_epochs": 3}
    saved = saved_each_step(run.lightning, tmp_path)
    run.train(run.data(), callbacks=[saved], enable_checkpointing=True, **options)
    whole, run.seen[:] = list(run.seen), []
    loader = run.make()
    for epoch in range(3):
        loader.set_epoch(epoch)
        sums = [(epoch, number, batch["image"].sum().item()) for number, batch in enumerate(loader)]
        assert whole[2 * epoch : 2 * epoch + 2] == sums[:2]
    for step in range(1, 6):
        run.train(run.data(), resume=tmp_path / f"step={step}.ckpt", **options)
        assert run.seen == whole[step:]
        run.seen.clear()


def test_a_checkpoint_of_other_options_is_refused(run: Run, tmp_path: Path) -> None:
    run.train(run.data(), callbacks=[saved_each_step(run.lightning, tmp_path)], enable_checkpointing=True, max_steps=1)
    with pytest.raises(ConfigError, match="state: seed was 3, this loader has 4"):
        run.train(run.data(train=partial(run.make, seed=4)), resume=tmp_path / "step=1.ckpt")


def test_what_a_stage_takes(run: Run, folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"val: wanted a function that makes a PatchLoader, got PatchLoader; write"):
        run.data(val=run.make())
    with pytest.raises(ConfigError, match=r"train: wanted a function .*, got \w*Path; write functools\.partial"):
        run.data(train=folder)
    with pytest.raises(ConfigError, match="train: the function made a list, wanted a PatchLoader"):
        run.train(run.data(train=list))
    with pytest.raises(Exception, match="train_dataloader"):  # Lightning's own message
        run.train(run.data(train=None))


def test_without_a_trainer_the_loaders_are_those_of_the_functions(run: Run) -> None:
    data = run.data(val=run.make, test=run.make, predict=run.make)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        assert len(loader) == BATCHES
        plain = run.make()
        for _ in range(2):  # two epochs, as the loader itself counts them
            for one, other in zip(loader, plain, strict=True):
                assert torch.equal(one["image"], other["image"])
    assert data.state_dict()["train"]["epoch"] == 2
    assert run.data().state_dict() == {}


@pytest.mark.parametrize(
    ("imported", "installed", "wanted"),
    [
        (["lightning.pytorch"], ["pytorch_lightning", "lightning.pytorch"], "lightning.pytorch"),
        (["pytorch_lightning"], ["pytorch_lightning", "lightning.pytorch"], "pytorch_lightning"),
        ([], ["pytorch_lightning"], "pytorch_lightning"),
        ([], ["lightning.pytorch"], "lightning.pytorch"),
        ([], [], None),
    ],
)
def test_the_lightning_that_is_in_use(
    imported: list[str], installed: list[str], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stand-ins for the two names of the one library, whose classes differ."""
    found: dict[str, Any] = {name: types.ModuleType(name) for name in ("lightning.pytorch", "pytorch_lightning")}
    for name, module in found.items():
        module.LightningDataModule = type("LightningDataModule", (), {"__module__": name})
        monkeypatch.delitem(sys.modules, name, raising=False)
        if name in imported:
            monkeypatch.setitem(sys.modules, name, module)
    package: Any = types.ModuleType("lightning")
    package.__path__ = []
    monkeypatch.setitem(sys.modules, "lightning", package)
    monkeypatch.setattr(sys, "meta_path", [_Finder(found, installed), *sys.meta_path])
    if wanted is None:
        with pytest.raises(UsageError, match=r"needs Lightning: pip install 'ctpatch\[lightning\]'"):
            _afresh()
    else:
        module = _afresh()
        assert module.PatchDataModule.__mro__[1].__module__ == wanted
        assert issubclass(module.PatchDataModule, found[wanted].LightningDataModule)


def _afresh() -> Any:
    """The module as in a new process, while the one that other tests use stays."""
    spec = importlib.util.spec_from_file_location("lightning_afresh", Path(ctpatch.__file__).with_name("lightning.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class _Finder:
    """Finds the stand-ins that are installed, and nothing of the library else."""

    def __init__(self, modules: dict[str, Any], installed: list[str]) -> None:
        self.modules, self.installed = modules, installed

    def find_spec(self, name: str, *_: Any) -> Any:
        if name not in self.modules:
            return None
        if name not in self.installed:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return importlib.machinery.ModuleSpec(name, self)  # type: ignore[arg-type]

    def create_module(self, spec: Any) -> Any:
        return self.modules[spec.name]

    def exec_module(self, module: Any) -> None:
        pass
