"""Torch's part of a prediction: on which device, in which precision. The only module here that needs torch."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import UsageError

_ERROR_CHARACTERS = 400
_AMP_DTYPES = ("float16", "bfloat16")


def said(error: Exception) -> str:
    """An error of a model's, as messages quote it."""
    return f"{type(error).__name__}: {str(error)[:_ERROR_CHARACTERS]}"


class TorchSide:
    """Calls a model with tensors.

    Args:
        model: a torch module, or a function of tensors.
        is_module: whether it is a module.
        device: where it works; None is the module's own device, and the CPU for a function.
        amp: automatic mixed precision, or its dtype.

    Attributes:
        device: where batches are.
        stays: whether slices are cut and put together there as well.

    Raises:
        UsageError: torch is not installed, there is no such device, or the module is elsewhere.
    """

    def __init__(self, model: Any, *, is_module: bool, device: Any = None, amp: Any = False) -> None:
        try:
            import torch  # noqa: PLC0415
        except ImportError:
            raise UsageError("as_tensor: torch is not installed; pip install torch, or leave as_tensor out") from None
        self._torch: Any = torch
        self._model, self._is_module = model, is_module
        own: Any
        self._dtype: Any
        self._dtype, own = _wanted_by(model) if is_module else (None, None)
        if device is None:
            self.device: Any = own if own is not None else torch.device("cpu")
        else:
            self.device = self._checked(device)
        self._amp = self._amp_dtype(amp)
        self._amp_on = amp is not False and amp is not None
        self.stays = works_apart(self.device)

    def _checked(self, device: Any) -> Any:
        torch = self._torch
        try:
            wanted = torch.device(device)
        except (RuntimeError, TypeError) as error:
            raise UsageError(
                f"device: {device!r} is no device of torch ({str(error).splitlines()[0]}); give 'cpu', 'cuda' or 'mps'"
            ) from None
        there = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}.get(wanted.type)
        if there is not None and not there():
            raise UsageError(f"device: torch sees no {wanted.type} device on this machine; leave device out")
        if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
            raise UsageError(
                f"device: there is no {str(wanted)!r}; torch sees {torch.cuda.device_count()} cuda devices"
            )
        if self._is_module:
            for tensor in (*self._model.parameters(), *self._model.buffers()):
                found = tensor.device
                other = None not in {wanted.index, found.index} and found.index != wanted.index
                if found.type != wanted.type or other:
                    raise UsageError(
                        f"device: the model is on {str(found)!r} and device is {str(wanted)!r}; ctpatch does not move "
                        f"a model: call model.to({str(wanted)!r}), or leave device out"
                    )
        return wanted

    def _amp_dtype(self, amp: Any) -> Any:
        if amp is None or isinstance(amp, bool):
            return None
        name = str(amp).removeprefix("torch.")
        if name not in _AMP_DTYPES:
            raise UsageError(f"amp: must be True, False, 'float16' or 'bfloat16', got {amp!r}")
        return getattr(self._torch, name)

    def stacked(self, patches: list[Any]) -> Any:
        """Patches `(C, h, w)` that are tensors of the device as a batch there; a copy."""
        return self._torch.stack(patches)

    def put(self, array: NDArray[Any]) -> Any:
        """An array as a tensor on the device; where that is the CPU, in the same memory."""
        # A file that is mapped for reading is copied: a tensor can be written to.
        return self._torch.from_numpy(np.require(array, requirements=["C", "W"])).to(self.device)

    def call(self, tensor: Any) -> Any:
        """What the model gives; UsageError where it cannot be called with such a tensor."""
        if self._is_module and self._dtype is not None:
            tensor = tensor.to(dtype=self._dtype)
        try:
            with evaluating(self._model) if self._is_module else nullcontext(), self._precision():
                return self._model(tensor)
        except (TypeError, RuntimeError) as error:
            if type(error) not in {TypeError, RuntimeError}:  # out of memory, and what a model raises of its own
                raise
            own = (
                ""
                if self._is_module
                else "; a function moves and converts it for its network, as x.half(), or device='cuda' moves it"
            )
            raise UsageError(
                f"the model was given a tensor {tuple(tensor.shape)} of {tensor.dtype} on {tensor.device} and raised "
                f"{said(error)}{own}"
            ) from error

    @contextmanager
    def _precision(self) -> Iterator[None]:
        amp: AbstractContextManager[Any] = nullcontext()
        if self._amp_on:
            amp = self._torch.autocast(self.device.type, dtype=self._amp)
        with self._torch.no_grad(), amp:
            yield

    def stays_there(self, values: Any) -> bool:
        """Whether an output is put together on the device: a plain tensor of floats."""
        torch = self._torch
        return (
            self.stays
            and isinstance(values, torch.Tensor)
            and values.device.type == self.device.type
            and values.is_floating_point()
            and values.layout == torch.strided
        )


def works_apart(device: Any) -> bool:
    """Whether a device has memory and arithmetic of its own, so that slices are cut and put together there."""
    return device.type not in {"cpu", "meta"}


def _wanted_by(module: Any) -> tuple[Any, Any]:
    """The dtype of a module's first parameter or buffer that is floating-point, and the device of its first."""
    tensors = [*module.parameters(), *module.buffers()]
    floating = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    return (floating[0] if floating else None), (tensors[0].device if tensors else None)


@contextmanager
def evaluating(module: Any) -> Iterator[None]:
    """Put a torch module into evaluation mode, and each of its layers back into the mode that this layer had."""
    modes = [(layer, layer.training) for layer in module.modules()]
    try:
        with suppress(NotImplementedError):  # an exported graph has its mode built in
            module.eval()
        yield
    finally:
        for layer, training in modes:
            if layer.training != training:
                layer.training = training  # not train(), which sets the layers below as well
