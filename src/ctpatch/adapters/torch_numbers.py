"""Random numbers for libraries that draw them from the global generator of torch."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

import numpy as np
import torch
from numpy.typing import NDArray

from ctpatch.errors import ConfigError
from ctpatch.loading.ahead import in_reading_thread
from ctpatch.loading.options import Array, Batch
from ctpatch.loading.transforms import InCallersThread, in_callers_thread


def seed_torch(rng: np.random.Generator) -> None:
    """Seed the CPU's global generator with a number from another one."""
    # Not torch.manual_seed, which would wake up every device.
    torch.default_generator.manual_seed(int(rng.integers(2**63)))


@dataclass(frozen=True, slots=True)
class _Undisturbed(Generic[Array]):
    """A transform around which the global generators of torch are put back as they were."""

    transform: Callable[[Batch[Array]], Batch[Array]]
    name: str

    def __call__(self, batch: Batch[Array]) -> Batch[Array]:
        if in_reading_thread():
            raise ConfigError(
                f"transform: {self.name} draws from the global random numbers of torch, which the training draws from "
                "at the same time, but a function of yours calls it in the thread that reads ahead; give the loader "
                "transform=ctpatch.in_callers_thread(your_function)"
            )
        with _put_back(), torch.no_grad():
            return self.transform(batch)


@contextmanager
def _put_back() -> Iterator[None]:
    state = torch.default_generator.get_state()
    # A library may call torch.manual_seed, which seeds all devices.
    uses_cuda: Callable[[], bool] = torch.cuda.is_initialized
    devices: list[torch.Tensor] = torch.cuda.get_rng_state_all() if uses_cuda() else []
    try:
        yield
    finally:
        torch.default_generator.set_state(state)
        if devices:
            torch.cuda.set_rng_state_all(devices)


def undisturbed(transform: Callable[[Batch[Array]], Batch[Array]], name: str) -> InCallersThread[Array]:
    """A transform that may use the global random numbers of torch, and leaves them as they were.

    It runs in the thread that asks for the batch: the reading thread runs during the training, which draws too.
    """
    return in_callers_thread(_Undisturbed(transform, name))


def as_tensor(array: Any) -> torch.Tensor:
    """An array as a tensor on which torch can compute: it cannot on unsigned numbers of more than 8 bits."""
    pixels: NDArray[Any] = np.asarray(array)
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize > 1:
        pixels = pixels.astype(np.int64)
    return torch.from_numpy(pixels)
