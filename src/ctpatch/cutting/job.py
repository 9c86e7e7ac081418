"""What all parts of a build share; small, and safe to send to another process or machine."""

from dataclasses import dataclass, field
from pathlib import Path

from ctpatch.config import PatchConfig
from ctpatch.core.statistics.columns import named_statistics
from ctpatch.format.carried import Kind, carried_columns
from ctpatch.format.columns import Column, label_columns
from ctpatch.format.meta import STATE_FOLDER, ArrayInfo
from ctpatch.format.tables import Schema, schema_of
from ctpatch.layouts import layout_of
from ctpatch.words import LayoutName, OnError


@dataclass(frozen=True, slots=True)
class Job:
    """What all parts of a build share.

    Attributes:
        data_root: what source paths are relative to.
        folder: the patch set's folder; absolute.
        path_prefix: what stands before a patch's path in the manifest.
        split: the split's name.
        config: geometry, range and rules.
        layout: how patches are written.
        arrays: `image` and those beside it.
        plan_digest: what a receipt must agree with.
        on_error: whether a faulty slice stops the part.
        strict: compare digests of sources before a receipt is trusted.
        carried: the columns of the source manifest that are kept, with their types.
        counted: the arrays whose labels are counted.
        sampled_every: every how many rows of pixels one is sampled, see `ctpatch.cutting.values`.
    """

    data_root: Path
    folder: Path
    path_prefix: str
    split: str
    config: PatchConfig
    layout: LayoutName
    arrays: dict[str, ArrayInfo]
    plan_digest: str
    on_error: OnError
    strict: bool
    carried: dict[str, Kind] = field(default_factory=dict)
    counted: tuple[str, ...] = ()
    sampled_every: int = 1

    @property
    def state(self) -> Path:
        """The folder of receipts."""
        return self.folder / STATE_FOLDER

    @property
    def slice_columns(self) -> list[Column]:
        """The columns of the slice manifest behind those of the arrays."""
        return [*label_columns(self.counted), *carried_columns(self.carried)]

    def schema(self, table: str) -> Schema:
        """The columns of one of the three tables, in order."""
        return schema_of(table, tuple(self.arrays), self.slice_columns, named_statistics(self.config))

    def resolve_patch(self, path: str) -> str:
        """Where a patch's file is: below the set's folder, or below the data root where the set has no pixels."""
        if layout_of(self.layout).reads_sources:
            return str(self.data_root / path)
        return str(self.folder / path.removeprefix(self.path_prefix))

    def piece(self, number: int, table: str) -> Path:
        """The rows of one of the tables that a part contributes."""
        return self.state / f"{number:06d}.{table}"
