"""Calling a model: batches in the form it takes, and checked outputs out of whatever it gives."""

import sys
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from ctpatch.core.arrays import as_array
from ctpatch.core.labels import holds_labels
from ctpatch.core.placing import Blend
from ctpatch.errors import ReassemblyError, UsageError
from ctpatch.loading.pool import Pool
from ctpatch.predicting.options import Options
from ctpatch.predicting.outputs import Output, Outputs, listed, picked
from ctpatch.predicting.torch_side import TorchSide, said
from ctpatch.predicting.turned import OneAnswer, symmetries_of, turn, turn_back

Answers = dict[Output, Any]
"""For each output its patches, `(B, h, w)` or `(B, C, h, w)`: an array, or a tensor that stays on a device."""


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
        options: what was asked for.
        output: which outputs are meant.

    Attributes:
        side: torch's part, where the model takes tensors.
    """

    def __init__(self, options: Options, output: Output | Outputs = None) -> None:
        self._model, self._options, self._output = options.model_fn, options, output
        self._is_module = is_torch_module(self._model)
        tensors = self._is_module if options.as_tensor is None else options.as_tensor
        self.side: TorchSide | None = None
        if tensors:
            self.side = TorchSide(self._model, is_module=self._is_module, device=options.device, amp=options.amp)
        elif options.device is not None or options.amp:
            name = "amp" if options.device is None else "device"
            raise UsageError(
                f"{name}: the model is given NumPy arrays, which are on no device of torch; set as_tensor=True if it "
                f"calls a torch network, or leave {name} out"
            )
        # New memory costs more than the copy that fills it; a model may keep a batch, and then that is not used again.
        self._room = Pool(1)
        self._kinds: dict[Output, tuple[np.dtype[Any], int | None]] = {}

    def batch(self, patches: list[Any]) -> Any:
        """Patches `(C, h, w)` as a batch for the model, a copy: it may write into it."""
        if self.side is not None and not isinstance(patches[0], np.ndarray):
            return self.side.stacked(patches)
        room = self._room((len(patches), *patches[0].shape), np.dtype(np.float32))
        made = np.stack(patches, out=room)
        return made if self.side is None else self.side.put(made)

    def __call__(self, batch: Any) -> Answers:
        """What the model gives for a batch `(B, C, h, w)`, by output; valid until the model is called again.

        Raises:
            UsageError: the model cannot be called with such a batch.
            ReassemblyError: it gives another shape, several outputs, no numbers, or labels and other numbers in turn.
        """
        if self._options.tta is None:
            return self._once(batch)
        answers: dict[Output, OneAnswer] = {}
        dtypes: dict[Output, Any] = {}
        for symmetry in symmetries_of(batch.shape[-2:]):
            for output, values in self._once(turn(batch, symmetry)).items():
                scores = self._options.blend(output).argmax
                answers.setdefault(output, OneAnswer()).add(turn_back(values, symmetry), average=scores)
                dtypes[output] = values.dtype
        return {output: answer.result(dtypes[output]) for output, answer in answers.items()}

    def _once(self, batch: Any) -> Answers:
        shape = tuple(batch.shape)
        given = self._on_arrays(batch) if self.side is None else self.side.call(batch)
        meant = picked(given, self._output)
        scores = self._options.argmax
        if isinstance(scores, list | tuple) and (stray := [each for each in scores if each not in meant]):
            raise ReassemblyError(
                f"argmax: {stray[0]!r} is none of the outputs that are put together ({listed(list(meant))}); name the "
                "outputs as in output="
            )
        return {output: self._checked(values, output, shape, given) for output, values in meant.items()}

    def _checked(self, values: Any, output: Output, batch: tuple[int, ...], given: Any) -> Any:
        name = "the model's output" if output is None else f"the model's output {output!r}"
        stays = self.side is not None and self.side.stays_there(values)
        result = values.detach() if stays else as_array(values, name)
        if not stays and result.dtype.kind not in "buif":
            kind = type(given).__name__ if result.dtype.kind == "O" else str(result.dtype)
            raise ReassemblyError(f"the model gave {kind}, wanted an array or a tensor of real numbers")
        blend = self._options.blend(output)
        shape: tuple[int, ...] = tuple(result.shape)
        _check_shape(shape, batch, blend, "" if output is None else f" as its output {output!r}")
        channels = shape[1] if len(shape) == len(batch) and shape[1] != 1 else None
        if len(shape) == len(batch) and channels is None:
            result = result[:, 0]
        if blend.argmax and channels is None:
            raise ReassemblyError(
                f"argmax: {name} has shape {shape}, one channel; wanted a score for each class, (B, classes, h, w); "
                "leave argmax out if these are class numbers or an image"
            )
        averaged = stays or blend.argmax
        self._check_kind(output, np.dtype(np.float32) if averaged else result.dtype, channels)
        return result

    def _check_kind(self, output: Output, dtype: np.dtype[Any], channels: int | None) -> None:
        """Refuse labels and other numbers in turn, and other channels than before."""
        before, of = self._kinds.setdefault(output, (dtype, channels))
        if of != channels:
            raise ReassemblyError(f"the model gave {of or 1} channels for one batch and {channels or 1} for another")
        if before != dtype and (holds_labels(before) or holds_labels(dtype)):
            raise ReassemblyError(
                f"the model gave {before} for one batch and {dtype} for another; give one dtype, since whole "
                "numbers are labels, which are not averaged, and other numbers are"
            )

    def _on_arrays(self, batch: NDArray[np.float32]) -> Any:
        try:
            return self._model(batch)
        except (TypeError, AttributeError) as error:
            if "ndarray" not in str(error) or "torch" not in sys.modules:
                raise
            cure = "leave as_tensor out" if self._is_module else "set as_tensor=True if it calls a torch network"
            raise UsageError(
                f"the model cannot take a NumPy array; {cure}, then it gets tensors. It raised {said(error)}"
            ) from error


def _check_shape(shape: tuple[int, ...], batch: tuple[int, ...], blend: Blend, which: str) -> None:
    height, width = blend.patch_size((batch[-2], batch[-1]))
    fits = len(shape) in {3, 4} and shape[0] == batch[0] and shape[-2:] == (height, width) and 0 not in shape
    if fits:
        return
    wanted = f"wanted ({batch[0]}, {height}, {width}), or ({batch[0]}, C, {height}, {width}) with C channels"
    hint = ""
    if len(shape) == 4 and shape[1:3] == (height, width) != shape[2:]:  # noqa: PLR2004
        hint = ". Channels come before rows and columns: permute them in the model's output"
    elif len(shape) in {3, 4} and shape[0] == batch[0] and shape[-2:] != (height, width):
        hint = f". Its pixels are {shape[-2]}x{shape[-1]} for patches of {batch[-2]}x{batch[-1]}: {_cure(shape, batch)}"
    raise ReassemblyError(f"the model gave shape {shape} for a batch of {batch}{which}, {wanted}{hint}")


def _cure(shape: tuple[int, ...], batch: tuple[int, ...]) -> str:
    """What a user says of output that has another size than its input."""
    (rows, more_rows), (cols, more_cols) = (divmod(shape[axis], batch[axis]) for axis in (-2, -1))
    if rows == cols > 1 and not more_rows and not more_cols:
        return f"say scale={rows} if each pixel became {rows}x{rows}"
    lost = batch[-2] - shape[-2], batch[-1] - shape[-1]
    if lost[0] == lost[1] > 0 and not lost[0] % 2:
        return f"say margin={lost[0] // 2} if its convolutions do not pad and it covers the centre"
    return (
        "say the model's scale= and margin=, pad its convolutions or resample its output, so that each pixel keeps "
        "its place"
    )
