"""What formats have in common that keep a whole volume in one file: how it lies, how planes are read, the reader.

A format's own folder says how its header is read; nothing heavy is imported here.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from ctpatch.prepare.readers.base import RawFormat

GroupBy = Literal["folder", "file"]


@dataclass(frozen=True)
class VolumeFormat(RawFormat):
    """A format of volumes, whose slices find partners by path.

    Attributes:
        group_by: what no two splits share, where no name tells the patient.
    """

    match_by: ClassVar = "path"

    group_by: Annotated[GroupBy, "Splits"] = "folder"

    def recorded(self) -> dict[str, Any]:
        """Who stays together."""
        return {"group_by": self.group_by}
