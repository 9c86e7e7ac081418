"""NumPy volumes."""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from ctpatch.prepare.readers.base import Reader
from ctpatch.prepare.readers.volume import GroupBy, VolumeFormat


@dataclass(frozen=True)
class Numpy(VolumeFormat):
    """Axial slices of NumPy arrays, whose axes and spacing the user states, as such files say neither.

    Attributes:
        group_by: What no two splits share, where no name such as sub-01 tells the patient.
        axes: The arrays' axes in their order, such as zyx: x runs to the patient's left, y to the back, z to the head;
            a minus before a letter turns it. Needed.
        voxel_spacing: Millimetres between voxels along each axis, in the same order. Needed.
        array_name: Which array of a .npz is meant, where it holds several.
        target_array: The same for target, where it is another one.
        mask_array: The same for mask, where it is another one.
        hu_slope: HU are the stored number times this.
        hu_intercept: Plus this.
    """

    name: ClassVar = "numpy"
    title: ClassVar = "Axial slices of NumPy volumes in HU (.npy, .npz), with stated axes and spacing"
    packages: ClassVar = ("nibabel",)

    group_by: Annotated[GroupBy, "Splits"] = "folder"
    axes: Annotated[str | None, "Values and size"] = None
    voxel_spacing: Annotated[tuple[float, float, float] | None, "Values and size"] = None
    array_name: Annotated[str | None, "--array"] = None
    target_array: str | None = None
    mask_array: str | None = None
    hu_slope: Annotated[float, "Values and size"] = 1.0
    hu_intercept: Annotated[float, "Values and size"] = 0.0

    def reader(self, array: str, workers: int) -> Reader:  # noqa: ARG002 - headers are small
        """A reader of the array that is meant, which leaves the numbers of masks as they are."""
        from ctpatch.prepare.readers.numpy.reader import NumpyReader  # noqa: PLC0415

        slope, intercept = (1.0, 0.0) if array == "mask" else (self.hu_slope, self.hu_intercept)
        named = {"target": self.target_array, "mask": self.mask_array}.get(array) or self.array_name
        return NumpyReader(
            self.group_by,
            self.follow_links,
            self.axes,
            self.voxel_spacing,
            named,
            float(slope),
            float(intercept),
        )

    def recorded(self) -> dict[str, Any]:
        """What decides how the numbers of an array become slices in HU."""
        return {
            "group_by": self.group_by,
            "axes": self.axes,
            "voxel_spacing": None if self.voxel_spacing is None else list(map(float, self.voxel_spacing)),
            "array": self.array_name,
            "target_array": self.target_array,
            "mask_array": self.mask_array,
            "hu_slope": float(self.hu_slope),
            "hu_intercept": float(self.hu_intercept),
        }
