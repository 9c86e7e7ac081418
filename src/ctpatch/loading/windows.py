"""Windows that are chosen while training: what a loader can be asked for as `windows=`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ctpatch.config import MAX_PIXELS_PER_AXIS, PatchConfig, Rule
from ctpatch.core.grid import PADDING_MODES
from ctpatch.errors import ConfigError
from ctpatch.loading.options import whole_number
from ctpatch.words import PadMode

WindowRules: TypeAlias = str | Rule | Sequence[str | Rule]
Labels: TypeAlias = Literal["any", "balanced"] | Sequence[int]

_MAX_PER_SLICE = 100_000
MAX_REDRAWS = 1000


@dataclass(frozen=True)
class RandomWindows:
    """New windows of whole slices in each epoch, each place as likely as any other, the last row and column included.

    A window depends on the seed, the epoch and its number in the epoch alone.

    Attributes:
        patch_size: height and width in pixels, or one number for both.
        per_slice: windows of each slice in an epoch.
        rules: a window that a rule drops is drawn again: `"set"` for the rules of the patch set, or rules as
            `PatchConfig(drop=…)` takes them; they judge the window's own pixels.
        redraws: how often a window is drawn again at most; then it is accepted as it is. `loader.drawn` counts both.
        pad_mode: what a slice smaller than a window is padded with (`zero`, `edge`, `reflect`) at its bottom and right;
            None refuses such slices.
    """

    patch_size: int | tuple[int, int] = 128
    per_slice: int = 16
    rules: WindowRules | None = None
    redraws: int = 10
    pad_mode: PadMode | None = None

    def __post_init__(self) -> None:
        for side in self.size:
            if not 1 <= side <= MAX_PIXELS_PER_AXIS:
                raise ConfigError(f"patch_size: wanted 1 to {MAX_PIXELS_PER_AXIS} pixels, got {self.patch_size!r}")
        if not 1 <= whole_number("per_slice", self.per_slice) <= _MAX_PER_SLICE:
            raise ConfigError(f"per_slice: wanted 1 to {_MAX_PER_SLICE} windows of each slice, got {self.per_slice}")
        if not 0 <= whole_number("redraws", self.redraws) <= MAX_REDRAWS:
            raise ConfigError(f"redraws: wanted 0 to {MAX_REDRAWS}, got {self.redraws}")
        if self.pad_mode is not None and self.pad_mode not in PADDING_MODES:
            raise ConfigError(f"pad_mode: wanted {', '.join(sorted(PADDING_MODES))} or None, got {self.pad_mode!r}")
        if self.rules is not None and self.rules != "set":
            PatchConfig(drop=self.rules)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a window in pixels."""
        both: Any = self.patch_size
        pair = tuple(both) if isinstance(both, tuple | list) else (both, both)
        if len(pair) != 2:  # noqa: PLR2004
            raise ConfigError(f"patch_size: wanted a number of pixels, or height and width, got {both!r}")
        return whole_number("patch_size", pair[0]), whole_number("patch_size", pair[1])

    def described(self) -> dict[str, Any]:
        """What decides the windows, as plain values."""
        rules = (
            self.rules
            if self.rules in {None, "set"}
            else [[rule.name, rule.condition] for rule in PatchConfig(drop=self.rules).drop]
        )
        return {
            "kind": type(self).__name__,
            "patch_size": list(self.size),
            "per_slice": int(self.per_slice),
            "rules": rules,
            "redraws": int(self.redraws),
            "pad_mode": self.pad_mode,
        }


@dataclass(frozen=True)
class LabelWindows(RandomWindows):
    """Windows of which a share holds a label; the others are random, as `RandomWindows` gives them.

    For a window with a label, a pixel that has the label is drawn, each as likely as any other of the set, and then a
    window that holds the pixel; at the border of a slice the window stays inside. How many windows of a batch hold a
    label is the same for every batch: the share of its size, rounded. A loader keeps in memory where masks hold labels,
    256 MB at most.

    Attributes:
        array: the array of labels.
        share: of each batch, 0 to 1.
        labels: `"any"` but 0; or a list of labels, of which a pixel has one; or `"balanced"`: each label of the set
            but 0 is drawn as often as every other.
    """

    array: str = "mask"
    share: float = 0.33
    labels: Labels = "any"

    def __post_init__(self) -> None:
        RandomWindows.__post_init__(self)
        if not 0 < self.share <= 1:
            raise ConfigError(f"share: wanted more than 0 and at most 1, got {self.share!r}")
        if isinstance(self.labels, str):
            if self.labels not in {"any", "balanced"}:
                raise ConfigError(f"labels: wanted 'any', 'balanced' or a list of labels, got {self.labels!r}")
        elif not self.labels:
            raise ConfigError("labels: the list is empty; name some labels, or take 'any'")
        else:
            for label in self.labels:
                whole_number("labels", label)

    def in_batch(self, size: int) -> int:
        """How many windows of a batch hold a label."""
        return int(self.share * size + 0.5)

    def refuse_small_batch(self, size: int) -> None:
        """Raise ConfigError where no window of a full batch would hold a label."""
        if self.in_batch(size) == 0:
            raise ConfigError(
                f"share: {self.share:g} of a batch of {size} is less than half a patch, so no window would hold a "
                "label; take a larger share or batch_size"
            )

    def described(self) -> dict[str, Any]:
        """What decides the windows, as plain values."""
        labels = self.labels if isinstance(self.labels, str) else [int(label) for label in self.labels]
        return {**super().described(), "array": self.array, "share": float(self.share), "labels": labels}
