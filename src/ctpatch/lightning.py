"""Patch sets for Lightning: a data module whose training goes on in mid-epoch from Lightning's own checkpoints."""

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Generic

from ctpatch.errors import ConfigError, UsageError
from ctpatch.torch import PatchLoader, Sample_co

# The same library under two names, whose classes differ: a trainer of one does not know data modules of the other.
try:
    if "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules:
        from pytorch_lightning import LightningDataModule
    else:
        try:
            from lightning.pytorch import LightningDataModule
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "lightning":
                raise
            from pytorch_lightning import LightningDataModule
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] not in ("lightning", "pytorch_lightning"):
        raise
    raise UsageError("ctpatch.lightning needs Lightning: pip install 'ctpatch[lightning]'") from None

__all__ = ["PatchDataModule"]


class _EpochLoader(Generic[Sample_co]):
    """A loader that gives the trainer's epoch, and in a resumed one what is left of it.

    Lightning asks for no batch after the last one of an epoch, or after those that its limits allow. The loader alone
    could not tell such a pass from one that was broken off, and would give the same epoch again.
    """

    def __init__(self, loader: PatchLoader[Sample_co], epoch: Callable[[], int | None]) -> None:
        self._loader = loader
        self._epoch = epoch
        self._resumed: int | None = None

    def __len__(self) -> int:
        """Batches in an epoch."""
        return len(self._loader)

    def __iter__(self) -> Iterator[Sample_co]:
        # Lightning makes iterators before it says which epoch it is in: the body runs when a batch is asked for.
        epoch, resumed = self._epoch(), self._resumed
        self._resumed = None
        if epoch is not None and epoch != resumed:
            self._loader.set_epoch(epoch)
        yield from self._loader

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands."""
        return self._loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._loader.load_state_dict(state)
        self._resumed = state["epoch"]


class PatchDataModule(LightningDataModule, Generic[Sample_co]):
    """Loaders for the stages of a `lightning.Trainer`.

    Each stage takes a function that makes its loader, since ranks are known only once Lightning has started its
    processes. `functools.partial(PatchLoader, folder, 16, shuffle=True)` is such a function. For a stage that has none,
    Lightning reports that there is no loader.

    Each epoch of the trainer is the epoch of the same number of each loader, whatever limits end it early. Checkpoints
    hold the place of the training loader. `trainer.fit(..., ckpt_path=...)` goes on with the batch after the last one
    that the network was trained on, in the middle of an epoch too.

    Args:
        train: makes the loader for training.
        val: makes the loader for validation.
        test: makes the loader for tests.
        predict: makes the loader for prediction.

    Raises:
        ConfigError: a stage was given something else than a function that makes a `PatchLoader`. In a resumed run: the
            checkpoint was saved with another set, or with other options of the loader.
    """

    def __init__(
        self,
        train: Callable[[], PatchLoader[Sample_co]] | None = None,
        val: Callable[[], PatchLoader[Sample_co]] | None = None,
        test: Callable[[], PatchLoader[Sample_co]] | None = None,
        predict: Callable[[], PatchLoader[Sample_co]] | None = None,
    ) -> None:
        super().__init__()
        self._stages = {"train": train, "val": val, "test": test, "predict": predict}
        for stage, make in self._stages.items():
            if make is None:
                # Lightning looks whether the method is its own, to see that there is no such loader.
                setattr(self, f"{stage}_dataloader", getattr(super(), f"{stage}_dataloader"))
            elif not callable(make):
                raise ConfigError(
                    f"{stage}: wanted a function that makes a PatchLoader, got {type(make).__name__}; write "
                    "functools.partial(PatchLoader, folder, 16)"
                )
        self._train: _EpochLoader[Sample_co] | None = None
        self._state: dict[str, Any] | None = None

    def _loader(self, stage: str) -> _EpochLoader[Sample_co]:
        make = self._stages[stage]
        loader: object = None if make is None else make()
        if not isinstance(loader, PatchLoader):
            raise ConfigError(
                f"{stage}: the function made a {type(loader).__name__}, wanted a PatchLoader; write "
                "functools.partial(PatchLoader, folder, 16)"
            )
        return _EpochLoader(loader, self._epoch)

    def _epoch(self) -> int | None:
        return None if self.trainer is None else int(self.trainer.current_epoch)

    def setup(self, stage: str) -> None:  # noqa: ARG002 - Lightning's name
        """Forget the place of a checkpoint that an earlier run loaded and did not train from."""
        self._state = None

    def train_dataloader(self) -> Any:
        """The loader for training; where a checkpoint was loaded, it stands where that was saved."""
        self._train = train = self._loader("train")
        state, self._state = self._state, None
        if state is not None:
            train.load_state_dict(state)
        return train

    def val_dataloader(self) -> Any:
        """The loader for validation."""
        return self._loader("val")

    def test_dataloader(self) -> Any:
        """The loader for tests."""
        return self._loader("test")

    def predict_dataloader(self) -> Any:
        """The loader for prediction."""
        return self._loader("predict")

    def state_dict(self) -> dict[str, Any]:
        """Where the training loader stands, for Lightning's checkpoints."""
        return {} if self._train is None else {"train": self._train.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the place from a checkpoint for the next training loader."""
        self._state = state_dict.get("train")
