"""Which slices are meant, by their plane, kernel and thickness, and why the others are left out."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from ctpatch.errors import ConfigError
from ctpatch.prepare.readers.dicom import Planes
from ctpatch.prepare.readers.dicom.header import CtHeader
from ctpatch.prepare.readers.dicom.orientation import Cosines

_MAIN = 0.8
"""A normal that lies along an axis by this cosine is of that plane: 36 degrees, as far as slices are made upright."""
_ACROSS: tuple[Planes, Planes, Planes] = ("sagittal", "coronal", "axial")
"""The plane across each axis of the patient: to the left, to the back, to the head."""
_RANGE = re.compile(r"(\d+(?:\.\d+)?)\.\.(\d+(?:\.\d+)?)")
_THICKNESS_TOLERANCE_MM = 1e-6
_MAX_KERNELS = 20

Reason = tuple[str, str]
"""Kind and reason of what is left out."""


def plane_of(axes: Cosines | None) -> Planes | None:
    """The plane of a slice: `axial`, `coronal`, `sagittal`, or `oblique` between these; None where nothing says it."""
    if axes is None:
        return None
    normal = np.abs(np.cross(axes[:3], axes[3:]))
    main = int(normal.argmax())
    return _ACROSS[main] if normal[main] >= _MAIN else "oblique"


def thickness_range(text: str) -> tuple[float, float]:
    """The lowest and the highest millimetres of a range such as `0..3`; ConfigError where it is none."""
    found = _RANGE.fullmatch(text.replace(" ", ""))
    low, high = (float(found[1]), float(found[2])) if found else (math.inf, -math.inf)
    if low > high:
        raise ConfigError(f"thickness: {text!r}, wanted the least and the most millimetres, such as '0..3'")
    return low, high


@dataclass(frozen=True, slots=True)
class Choices:
    """What is asked for.

    Attributes:
        planes: one plane, or `all`; None leaves out what is not axial where its study has axial slices too.
        kernel: pattern of the kernel; None takes all.
        thickness: lowest and highest mm, both among those that are meant; None takes all.
    """

    planes: Planes | None = None
    kernel: str | None = None
    thickness: tuple[float, float] | None = None

    def against(self, header: CtHeader) -> Reason | None:
        """Why a slice is not meant, by its kernel or thickness."""
        return self._of_kernel(header) or self._of_thickness(header)

    def against_plane(self, header: CtHeader, *, with_axial: bool) -> Reason | None:
        """Why a slice is not meant, by its plane; `with_axial` says whether its study has axial ones that are meant."""
        plane = plane_of(header.axes)
        if self.planes == "all" or plane == (self.planes or "axial"):
            return None
        if self.planes is None:
            said = f"its plane is {plane}, and its study has axial slices; --planes all takes both"
            return ("other-plane", said) if with_axial and plane is not None else None
        seen = "it does not say its plane" if plane is None else f"its plane is {plane}"
        return "other-plane", f"{seen}, --planes asks for {self.planes}"

    def _of_kernel(self, header: CtHeader) -> Reason | None:
        if self.kernel is None:
            return None
        if not header.kernel:
            return "other-kernel", "it does not say its ConvolutionKernel, by which --kernel chooses"
        seen, wanted = header.kernel.lower(), self.kernel.lower().strip()
        fits = seen == wanted or fnmatchcase(seen, wanted)
        return None if fits else ("other-kernel", "its ConvolutionKernel does not fit the pattern of --kernel")

    def _of_thickness(self, header: CtHeader) -> Reason | None:
        if self.thickness is None:
            return None
        low, high = self.thickness
        seen = header.thickness_mm
        if seen is None:
            return "other-thickness", "it does not say its SliceThickness, by which --thickness chooses"
        if low - _THICKNESS_TOLERANCE_MM <= seen <= high + _THICKNESS_TOLERANCE_MM:
            return None
        return "other-thickness", f"its SliceThickness is {seen:g} mm, --thickness asks for {low:g}..{high:g} mm"


ALL = Choices("all")
"""What is asked for where nothing is."""


def none_of_kernel(pattern: str, kernels: Iterable[str]) -> str:
    """What to say where a pattern fits no kernel: those that are there."""
    there = sorted({each or "none said" for each in kernels})
    more = f" and {len(there) - _MAX_KERNELS} more" if len(there) > _MAX_KERNELS else ""
    listed = "; ".join(repr(each[:60]) for each in there[:_MAX_KERNELS])
    return f"no kernel fits --kernel {pattern!r}; kernels that are there: {listed}{more}"
