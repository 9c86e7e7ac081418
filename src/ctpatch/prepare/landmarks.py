"""What every worker of a preparation must see and have, on whichever machine it is."""

from pathlib import Path

from ctpatch.prepare.planning import PreparePlan

_READ_WITH = {
    "dicom": (
        "pydicom",
        "pylibjpeg",
        "pylibjpeg-openjpeg",
        "pylibjpeg-libjpeg",
        "pylibjpeg-rle",
        "pillow",  # pydicom decodes with these two as well where they are installed
        "python-gdcm",
    ),
    "nifti": ("nibabel",),
    "lodopab": ("h5py",),
}
_RESAMPLED_WITH = ("scipy",)


def files_to_see(plan: PreparePlan) -> list[Path]:
    """One raw file of each array: the first that is read."""
    first = next(plan.all_tasks())
    return [source.folder / raw.file for source, raw in zip(plan.arrays, first.slices, strict=True)]


def software_to_have(plan: PreparePlan) -> list[str]:
    """Packages whose version can decide the bytes."""
    names = [name for source in plan.arrays for name in _READ_WITH.get(source.reader.name, ())]
    return list(dict.fromkeys([*names, *(_RESAMPLED_WITH if plan.geometry.spacing_mm else ())]))
