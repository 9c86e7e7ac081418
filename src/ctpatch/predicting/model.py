"""Calling a model: batches in the form it takes, and one checked NumPy array out of whatever it gives."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ctpatch.core.arrays import as_array
from ctpatch.core.labels import holds_labels
from ctpatch.errors import ReassemblyError, UsageError

_MAX_NAMED = 10
_ERROR_CHARACTERS = 400

Output = int | str | None
"""Which of several outputs is meant: its index in a tuple or list, its name in a dict; None where there is one."""


def is_torch_module(model: object) -> bool:
    """Whether a model is a `torch.nn.Module`, without importing torch."""
    return any(base.__module__ == "torch.nn.modules.module" for base in type(model).__mro__)


def model_digest(model: Any) -> str | None:
    """Digest of a torch module's class and of all its parameters and buffers; None for anything else."""
    if not is_torch_module(model):
        return None
    import torch  # noqa: PLC0415 - it is there where such a model is

    hasher = xxhash.xxh3_128(f"{type(model).__module__}.{type(model).__qualname__}\n".encode())
    for name, value in sorted(model.state_dict().items()):
        tensor = value.detach().cpu().contiguous() if hasattr(value, "detach") else None
        described = f"{name} {value!r}" if tensor is None else f"{name} {tensor.dtype} {tuple(tensor.shape)}"
        hasher.update(f"{described}\n".encode())
        if tensor is not None and tensor.numel():
            # As bytes: NumPy has not all of torch's dtypes.
            hasher.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return hasher.hexdigest()


class Caller:
    """Gives batches to a model in the form it takes and checks what comes back.

    Args:
        model: any callable; see `ctpatch.predict`.
        as_tensor: whether it is given torch tensors; None does for a `torch.nn.Module`.
        output: which of several outputs is meant.
    """

    def __init__(self, model: Any, as_tensor: bool | None, output: Output = None) -> None:
        self._model, self._output = model, output
        self._is_module = is_torch_module(model)
        self._tensors = self._is_module if as_tensor is None else as_tensor
        self._dtype: np.dtype[Any] | None = None

    def __call__(self, patches: NDArray[np.float32]) -> NDArray[Any]:
        """What the model gives for patches `(B, h, w)`, in the same shape; valid until the model is called again.

        Raises:
            UsageError: the model cannot be called with such a batch.
            ReassemblyError: it gives another shape, several outputs, no numbers, or labels and other numbers in turn.
        """
        batch = np.ascontiguousarray(patches[:, np.newaxis])
        with evaluating(self._model) if self._is_module else nullcontext():
            given = self._on_tensors(batch) if self._tensors else self._on_arrays(batch)
            result = as_array(_picked(given, self._output), "the model's output")
        if result.dtype.kind not in "buif":
            kind = type(given).__name__ if result.dtype.kind == "O" else str(result.dtype)
            raise ReassemblyError(f"the model gave {kind}, wanted an array or a tensor of real numbers")
        self._check_shape(result.shape, batch.shape)
        before, self._dtype = self._dtype or result.dtype, result.dtype
        if before != result.dtype and (holds_labels(before) or holds_labels(result.dtype)):
            raise ReassemblyError(
                f"the model gave {before} for one batch and {result.dtype} for another; give one dtype, since whole "
                "numbers are labels, which are not averaged, and other numbers are"
            )
        return result[:, 0] if result.shape == batch.shape else result

    @staticmethod
    def _check_shape(shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
        if shape in {wanted, (wanted[0], *wanted[2:])}:
            return
        hint = ""
        if len(shape) == len(wanted) and shape[0] == wanted[0]:
            if shape[1] != 1:
                hint = (
                    f". It gives {shape[1]} channels and predict takes one: give one of them, or for classes their "
                    "number, output.argmax(1)"
                )
            elif shape[2:] != wanted[2:]:
                hint = (
                    f". Its pixels are {shape[2]}x{shape[3]} for patches of {wanted[2]}x{wanted[3]}: pad its "
                    "convolutions or resample its output, so that each pixel keeps its place"
                )
        raise ReassemblyError(f"the model gave shape {shape} for a batch of {wanted}, wanted the same shape{hint}")

    def _on_arrays(self, batch: NDArray[np.float32]) -> Any:
        try:
            return self._model(batch)
        except (TypeError, AttributeError) as error:
            if "ndarray" not in str(error) or "torch" not in sys.modules:
                raise
            cure = "leave as_tensor out" if self._is_module else "set as_tensor=True if it calls a torch network"
            raise UsageError(
                f"the model cannot take a NumPy array; {cure}, then it gets tensors. It raised {_said(error)}"
            ) from error

    def _on_tensors(self, batch: NDArray[np.float32]) -> Any:
        try:
            import torch  # noqa: PLC0415
        except ImportError:
            raise UsageError("as_tensor: torch is not installed; pip install torch, or leave as_tensor out") from None
        tensor = torch.from_numpy(batch)
        if self._is_module:
            tensor = tensor.to(**_wanted_by(self._model))
        try:
            with torch.no_grad():
                return self._model(tensor)
        except (TypeError, RuntimeError) as error:
            if type(error) not in {TypeError, RuntimeError}:  # out of memory, and what a model raises of its own
                raise
            own = (
                "" if self._is_module else "; a function moves and converts it for its network, as x.half() or x.cuda()"
            )
            raise UsageError(
                f"the model was given a tensor {tuple(tensor.shape)} of {tensor.dtype} on {tensor.device} and raised "
                f"{_said(error)}{own}"
            ) from error


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:_ERROR_CHARACTERS]}"


def _wanted_by(module: Any) -> dict[str, Any]:
    """The device of a module's first parameter or buffer, and the dtype of the first that is floating-point."""
    tensors = [*module.parameters(), *module.buffers()]
    floating = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
    wanted: dict[str, Any] = {"device": tensors[0].device} if tensors else {}
    return wanted | ({"dtype": floating[0]} if floating else {})


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


def _picked(given: Any, output: Output) -> Any:
    """The output that is meant."""
    if isinstance(given, Mapping):
        names = list(given)
        if output is None or output not in names:
            raise _not_picked(f"a dict of {_listed(names)}", output, names)
        return given[output]
    if isinstance(given, tuple | list):
        fields = getattr(given, "_fields", ())
        if isinstance(output, str) and output in fields:
            return getattr(given, output)
        places = list(range(-len(given), len(given)))
        if isinstance(output, bool) or not hasattr(output, "__index__") or output not in places:
            names = list(fields) or list(range(len(given)))
            raise _not_picked(f"a {type(given).__name__} of {len(given)}", output, names)
        return given[output]
    if output is not None:
        raise ReassemblyError(
            f"output={output!r} picks one of several outputs, and the model gives one ({type(given).__name__}); leave "
            "output out"
        )
    return given


def _not_picked(what: str, output: Output, names: list[Any]) -> ReassemblyError:
    seen = "" if output is None else f", and none of it is output={output!r}"
    if not names:
        return ReassemblyError(f"the model gave {what}{seen}: there is nothing to predict")
    return ReassemblyError(
        f"the model gave {what}{seen}; say which is the prediction, output={names[0]!r} for example (there are "
        f"{_listed(names)})"
    )


def _listed(names: list[Any]) -> str:
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return ", ".join(map(repr, names[:_MAX_NAMED])) + more
