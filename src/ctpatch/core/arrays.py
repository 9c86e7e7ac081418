"""Arrays of any origin as NumPy arrays: what a network gives is rarely one, and NumPy refuses it in its own words."""

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.errors import ReassemblyError

_ERROR_CHARACTERS = 200


def as_array(values: Any, what: str) -> NDArray[Any]:
    """Values as a NumPy array, in their own dtype where NumPy has it.

    A torch tensor is detached and copied to main memory. Its bfloat16 and 8-bit floats become float32, which holds each
    of their values; a quantized or sparse one becomes dense floats.

    Args:
        values: an array, a tensor on any device, or a sequence of such.
        what: what messages call them.

    Raises:
        ReassemblyError: they are no array, or on a device that holds no values.
    """
    if hasattr(values, "detach"):
        return _from_tensor(values, what)
    if isinstance(values, list | tuple) and any(hasattr(value, "detach") for value in values):
        values = [as_array(value, f"{what}, number {number},") for number, value in enumerate(values)]
    try:
        return np.asarray(values)
    except Exception as error:  # each library refuses in its own way
        raise ReassemblyError(f"{what} {_cannot(error)}") from error


def _from_tensor(tensor: Any, what: str) -> NDArray[Any]:
    device = getattr(tensor, "device", None)
    if getattr(device, "type", None) == "meta":
        raise ReassemblyError(
            f"{what}: the tensor is on torch's device 'meta', which holds shapes and no values; give one with values"
        )
    try:
        here = tensor.detach()
        if getattr(here, "is_quantized", False):
            here = here.dequantize()
        with suppress(AttributeError):
            here = here.to_dense()
        here = here.cpu()
        if str(here.dtype).startswith(("torch.bfloat16", "torch.float8")):
            here = here.float()  # NumPy has no such dtype
        with suppress(AttributeError):
            here = here.resolve_conj().resolve_neg()
        return np.asarray(here.numpy())
    except Exception as error:  # each kind of tensor refuses in its own way
        raise ReassemblyError(f"{what} {_cannot(error)}") from error


def _cannot(error: Exception) -> str:
    said = f"{type(error).__name__}: {error}".splitlines()[0][:_ERROR_CHARACTERS]
    return f"cannot be read as a NumPy array ({said}); give NumPy arrays of numbers, or torch tensors"
