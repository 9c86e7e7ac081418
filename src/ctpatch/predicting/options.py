"""What a prediction can be asked for: the one list of `predict`'s parameters, and which of them decide the pixels."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from numpy.typing import ArrayLike

from ctpatch.config import PatchConfig
from ctpatch.core.context import ContextGap
from ctpatch.core.placing import Blend
from ctpatch.core.reassembly import WindowName
from ctpatch.errors import ConfigError
from ctpatch.events import Listener, ignore
from ctpatch.loading.options import ContextOptions, HuShown, Normalize
from ctpatch.predicting.outputs import ALL, Output, Outputs, check_asked, is_several, key_list
from ctpatch.reading.patchset import AnySet
from ctpatch.reading.slice_set import SliceSet

Model = Callable[[Any], Any]
"""Takes `(B, C, H, W)`, C mostly 1, and gives `(B, H, W)` or `(B, C, H, W)`, or several such; NumPy or torch."""

Symmetries = Literal["flips"]


@dataclass(frozen=True)
class Options:
    """What a slice and a patch set have in common.

    Attributes:
        model_fn: any callable on `(B, 1, H, W)` float32 that gives `(B, 1, H, W)`, `(B, H, W)` or `(B, C, H, W)`. A
            `torch.nn.Module` is given tensors on its own device and in the dtype of its weights, in evaluation mode and
            without gradients; afterwards each layer has the mode it had. Other callables get NumPy arrays unless
            `as_tensor` is set. Whole numbers or booleans are labels.
        image: a slice `(H, W)`, a patch set, or the slices of a prepared split (`ctpatch.open_slices`). With `context`
            a single slice comes with its neighbours, `(2 * context + 1, H, W)`, itself in the middle.
        cfg: geometry; None takes windows of 128 (those of the set) spread evenly, so that no border is lost, and pads a
            single slice that is smaller than 128 by reflection.
        batch_size: patches given to the model at a time; a batch may hold patches of two slices.
        window: how a patch's pixels weigh where patches overlap.
        fill: what pixels get that no patch covers; labels need a whole number where there are such pixels.
        as_tensor: give the model torch tensors; None does for torch modules. A function around a
            torch network needs it.
        output: for a model that gives several outputs: the index in its tuple or list, or the name in its dict. A list
            of these puts each of them together, `"all"` every one.
        scale: the model gives so many pixels along each axis for one of its input (super-resolution).
        margin: the model's output lacks so many pixels of its input at each side (convolutions without padding).
            Windows then begin that far before the slice, which is padded by reflection (or as `cfg.pad_mode` pads), and
            lie close enough for their outputs to touch.
        argmax: the model gives a score for each class as channels: scores are averaged, and the slice has the class of
            the largest, of equal ones the first. A list of outputs says which of them are scores.
        tta: `"flips"` gives the model each patch in its eight symmetries (four where it is not square), turns what
            comes back and averages it; of labels each pixel takes the commonest, of equal ones the smallest.
        device: where torch works, as `"cuda"`: batches are moved there. None takes the device of a torch module, and
            the CPU for a function. A torch module that is elsewhere is refused, never moved.
        context: so many slices on each side, of the same series in the order of position, are given to the model as
            channels, the slice itself in the middle. The neighbours of a single slice are given with it.
        context_edge: for a set: what is beyond the ends of a series: `repeat` its last slice, or `zero`.
        context_gap: for a set: where neighbours cannot be told, at gaps wider than 1.5 times the usual spacing or
            without positions: `refuse` the set, `end` the series there, or `ignore` it and take the next slice of the
            table.
        normalize: the model is given values less a mean, divided by a standard deviation, as in training: `train` takes
            both from the set of the split train beside this one; a set of the split train or its folder; or
            `(mean, std)`.
        hu: for a set: the model is given values seen through windows of HU, each a channel from 0 to 1.
        map_back: with `normalize` or `hu`: turn the output into stored values. None does where the model gives one
            output of one channel, and refuses where it gives more, since some of them may be no image; give True,
            False, or a list of outputs. Several windows of HU cannot be mapped back. Labels and class scores never are.
        amp: run torch in automatic mixed precision: True, or the dtype, `"float16"` or `"bfloat16"`.
    """

    model_fn: Model
    image: ArrayLike | AnySet | SliceSet
    cfg: PatchConfig | None = None
    batch_size: int = 16
    window: WindowName = "hann"
    fill: float = field(default=float("nan"), kw_only=True)
    as_tensor: bool | None = field(default=None, kw_only=True)
    output: Output | Outputs = field(default=None, kw_only=True)
    scale: int = field(default=1, kw_only=True)
    margin: int = field(default=0, kw_only=True)
    argmax: bool | Outputs = field(default=False, kw_only=True)
    tta: Symmetries | None = field(default=None, kw_only=True)
    device: Any = field(default=None, kw_only=True)
    amp: Any = field(default=False, kw_only=True)
    context: int = field(default=0, kw_only=True)
    context_edge: Literal["repeat", "zero"] = field(default="repeat", kw_only=True)
    context_gap: ContextGap = field(default="refuse", kw_only=True)
    normalize: Normalize = field(default=None, kw_only=True)
    hu: HuShown = field(default=None, kw_only=True)
    map_back: bool | Outputs | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        size: object = self.batch_size
        if isinstance(size, bool) or not hasattr(size, "__index__") or self.batch_size < 1:
            raise ConfigError(f"batch_size: must be a whole number, 1 or more, got {size!r}")
        if self.tta not in {None, "flips"}:
            raise ConfigError(f"tta: must be 'flips' or None, got {self.tta!r}")
        if self.cfg is not None and not isinstance(self.cfg, PatchConfig):
            raise ConfigError(f"cfg: must be a ctpatch.PatchConfig, got {type(self.cfg).__name__}")
        check_asked("output", self.output)
        if not isinstance(self.argmax, bool) and not is_several(self.argmax):
            raise ConfigError(
                f"argmax: must be True, False, 'all' or a list of outputs, got {self.argmax!r}; "
                f"for one output, argmax=[{self.argmax!r}]"
            )
        check_asked("argmax", self.argmax)
        self._check_context()
        self._check_map_back()
        self.blend()

    def _check_context(self) -> None:
        edge: object = self.context_edge
        if edge == "drop":
            raise ConfigError(
                "context_edge: 'drop' leaves slices out, and a prediction has every slice; give 'repeat' or 'zero'"
            )
        ContextOptions(context=self.context, context_edge=self.context_edge, context_gap=self.context_gap)

    def _check_map_back(self) -> None:
        asked = self.map_back
        if asked and self.normalize is None and self.hu is None:
            raise ConfigError("map_back: nothing maps the values that the model is given; give normalize or hu too")
        if asked is None or isinstance(asked, bool):
            return
        if not is_several(asked):
            raise ConfigError(f"map_back: must be True, False, 'all' or a list of outputs, got {asked!r}")
        check_asked("map_back", asked)
        wanted = self.output
        stray = [each for each in asked if isinstance(wanted, list | tuple) and each not in wanted]
        if asked != ALL and (stray or not is_several(wanted)):
            raise ConfigError(
                f"map_back: {(stray or list(asked))[0]!r} is none of the outputs that output= lists ({wanted!r}); name "
                "some of these, or give True or False"
            )

    def blend(self, output: int | str | None = None) -> Blend:
        """How the patches of an output are put together."""
        scores = self.argmax if isinstance(self.argmax, bool) else self.argmax == "all" or output in self.argmax
        return Blend(self.window, self.fill, self.scale, self.margin, scores)

    def described(self, config: PatchConfig, clip: bool) -> dict[str, Any]:
        """What decides the pixels, as plain values; what says the default of a later option is left out.

        A fill that is no number is text, since JSON has none.
        """
        geometry = config.model_dump(mode="json", include={"patch_size", "stride", "pad_mode"})
        rest = {"batch_size": self.batch_size, "window": self.window, "fill": str(float(self.fill)), "clip": clip}
        later = {
            "output": key_list(self.output),
            "scale": None if self.scale == 1 else self.scale,
            "margin": self.margin or None,
            "argmax": key_list(self.argmax) or None,
            "tta": self.tta,
            "context": [int(self.context), self.context_edge, self.context_gap] if self.context else None,
            "device": None if self.device is None else str(self.device),
            "amp": str(self.amp).removeprefix("torch.") if self.amp not in {None, True, False} else self.amp or None,
        }
        return {**geometry, **rest, **{name: value for name, value in later.items() if value is not None}}


@dataclass(frozen=True)
class OfSlice(Options):
    """One slice, one output."""

    image: ArrayLike
    output: Output = field(default=None, kw_only=True)


@dataclass(frozen=True)
class OutputsOfSlice(Options):
    """One slice, several outputs."""

    image: ArrayLike
    output: Outputs = field(kw_only=True)


@dataclass(frozen=True)
class Asked(Options):
    """Everything.

    Attributes:
        out: for a set: data root for the results (needed); they are `prepared/<dataset>/<split>/` below it.
        dataset: name of the result; None takes the set's, with `_predicted`.
        clip: for a patch set: clip results to the set's value range, so that `build` takes them; for a prepared split
            to 0 to 1. Labels never are, nor is what `map_back=False` leaves in the model's own scale.
        model_id: for a patch set: a name of your own for the model, put on record, by which a later run knows it again.
            A `torch.nn.Module` needs none: the digest of its weights is taken.
        overwrite: for a patch set: start anew over earlier results of ours.
        listener: is told of progress.
    """

    out: str | os.PathLike[str] | None = field(default=None, kw_only=True)
    dataset: str | None = field(default=None, kw_only=True)
    clip: bool = field(default=True, kw_only=True)
    model_id: str | None = field(default=None, kw_only=True)
    overwrite: bool = field(default=False, kw_only=True)
    listener: Listener = field(default=ignore, kw_only=True)


@dataclass(frozen=True)
class OfSet(Asked):
    """A patch set, or the slices of a prepared split."""

    image: AnySet | SliceSet
