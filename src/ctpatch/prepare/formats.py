"""What users call for formats of volumes and pictures: the options of each as real keywords."""

from typing import Unpack

from ctpatch.prepare.api import prepare_raw
from ctpatch.prepare.options import HuKeywords, SourcePath, shown_keywords
from ctpatch.prepare.pipeline import PrepareResult
from ctpatch.prepare.readers.images import GroupBy as ImagesGroup
from ctpatch.prepare.readers.images import HuPreset, Images
from ctpatch.prepare.readers.metaimage import Metaimage
from ctpatch.prepare.readers.nrrd import Nrrd
from ctpatch.prepare.readers.numpy import Numpy
from ctpatch.prepare.readers.volume import GroupBy


@shown_keywords(like=prepare_raw)
def prepare_metaimage(
    source: SourcePath, out: SourcePath, dataset: str, *, group_by: GroupBy = "folder", **options: Unpack[HuKeywords]
) -> PrepareResult:
    """Prepare the axial slices of MetaImage volumes in HU (`.mhd`, `.mha`); see `prepare_raw` for the options.

    In LUNA16, each file is a series, and no series is divided between splits. Elsewhere `group_by` says what is kept
    together: all files of a `folder`, or each `file`.
    """
    return prepare_raw(Metaimage(group_by), source, out, dataset, **options)


@shown_keywords(like=prepare_raw)
def prepare_nrrd(
    source: SourcePath, out: SourcePath, dataset: str, *, group_by: GroupBy = "folder", **options: Unpack[HuKeywords]
) -> PrepareResult:
    """Prepare the axial slices of NRRD volumes in HU (`.nrrd`, `.nhdr`); see `prepare_raw` for the options.

    Where no BIDS name tells the patient, `group_by` says what must not be divided between splits: all files of a
    `folder`, or each `file`.
    """
    return prepare_raw(Nrrd(group_by), source, out, dataset, **options)


@shown_keywords(like=prepare_raw)
def prepare_numpy(
    source: SourcePath,
    out: SourcePath,
    dataset: str,
    *,
    group_by: GroupBy = "folder",
    axes: str | None = None,
    voxel_spacing: tuple[float, float, float] | None = None,
    array_name: str | None = None,
    target_array: str | None = None,
    mask_array: str | None = None,
    hu_slope: float = 1.0,
    hu_intercept: float = 0.0,
    **options: Unpack[HuKeywords],
) -> PrepareResult:
    """Prepare the axial slices of NumPy arrays (`.npy`, `.npz`); see `prepare_raw` for the other options.

    `axes` names the axes in the order of the array, such as `zyx`: x runs to the patient's left, y to the back, z to
    the head, and a minus before a letter turns it. `voxel_spacing` has millimetres for each, in the same order. Both
    are needed. `array_name` says which array of a `.npz` is meant, and `target_array` and `mask_array` which other one
    holds the target or the mask. HU are `stored * hu_slope + hu_intercept`; masks are left as they are.

    Raises:
        ConfigError: axes or spacing are missing or make no sense.
        CtPatchError: as `prepare_raw`.
    """
    raw = Numpy(group_by, axes, voxel_spacing, array_name, target_array, mask_array, hu_slope, hu_intercept)
    return prepare_raw(raw, source, out, dataset, **options)


@shown_keywords(like=prepare_raw)
def prepare_images(
    source: SourcePath,
    out: SourcePath,
    dataset: str,
    *,
    group_by: ImagesGroup = "folder",
    hu_preset: HuPreset | None = None,
    hu_slope: float | None = None,
    hu_intercept: float | None = None,
    pixel_spacing: tuple[float, float] | None = None,
    slice_spacing: float | None = None,
    **options: Unpack[HuKeywords],
) -> PrepareResult:
    """Prepare slices in TIFF and 16-bit PNG pictures; see `prepare_raw` for the other options.

    HU are `stored * hu_slope + hu_intercept`, or those of `hu_preset`: `deeplesion` stands for HU + 32768. One of both
    is needed; masks are left as they are. `pixel_spacing` and `slice_spacing` are millimetres, as pictures do not say
    them. In DeepLesion the names of folders tell the patient. Elsewhere `group_by` says what must not be divided
    between splits: the `folder` of a slice, the first folder below the source (`top-folder`), or each `file` of
    several pages.

    Raises:
        ConfigError: the mapping to HU is missing, or stated twice.
        CtPatchError: as `prepare_raw`.
    """
    raw = Images(group_by, hu_preset, hu_slope, hu_intercept, pixel_spacing, slice_spacing)
    return prepare_raw(raw, source, out, dataset, **options)
