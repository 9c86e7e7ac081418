"""What a call asks of a patch set: numbers of patches, names of arrays, memory to fill."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ctpatch.core.placing import checked_patches
from ctpatch.errors import ReassemblyError
from ctpatch.files.memory import empty_buffer

OneArray: TypeAlias = NDArray[Any]
ArraysByName: TypeAlias = dict[str, NDArray[Any]]
SetPath: TypeAlias = str | os.PathLike[str]
Indices: TypeAlias = Sequence[int] | Sequence[bool] | NDArray[np.integer[Any]] | NDArray[np.bool_]
Names: TypeAlias = list[str] | tuple[str, ...]
"""Names of arrays. A text is none of these: it names one array."""


def named_arrays(
    given: str | Sequence[str] | None, default: tuple[str, ...], known: tuple[str, ...]
) -> tuple[str, ...]:
    """The arrays that are meant by a name, by names, or by none."""
    if given is None:
        return default
    names = (given,) if isinstance(given, str) else tuple(given)
    if not names:
        raise ValueError(f"the list of arrays is empty; name some of {', '.join(known)}, or leave it out")
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"there is no array {unknown[0]!r}; the set has {', '.join(known)}")
    return names


def is_one(index: object) -> bool:
    """Whether an index means one patch, and not several.

    Raises:
        TypeError: it may be meant either way, as in `ps[0, 1]`, or it is True or False.
    """
    if isinstance(index, tuple):
        raise TypeError(f"indices have {len(index)} parts: a patch has one number; give a list for several patches")
    if isinstance(index, bool | np.bool_):
        raise TypeError(f"indices are {index}, wanted a whole number, or a mask with a boolean for each patch")
    return isinstance(index, str) or not hasattr(index, "__len__") or getattr(index, "ndim", 1) == 0


def checked_indices(indices: ArrayLike, count: int) -> NDArray[np.int64]:
    """Numbers of patches, counted from the beginning, int64 `(N,)`; a mask gives those for which it is true."""
    try:
        which = np.asarray(indices)
    except ValueError:  # lists within the list, of several lengths
        raise ValueError("indices are lists of several lengths, wanted a flat list of patch numbers") from None
    if which.ndim != 1:
        raise ValueError(f"indices have {which.ndim} dimensions, wanted a flat list of patch numbers")
    if which.dtype.kind == "b":
        if len(which) != count:
            raise IndexError(f"the mask has {len(which)} values, wanted one for each of the set's {count} patches")
        return np.flatnonzero(which)
    if which.size and which.dtype.kind not in "iu":
        # A list that NumPy takes for no whole numbers may have some that are too large for it.
        given: Any = indices if isinstance(indices, Sequence) else which
        if not all(isinstance(each, int) for each in given):
            raise TypeError(f"indices are {which.dtype}, wanted whole numbers, or a mask of booleans")
        which = np.array(given, object)
    wrong = np.asarray((which < -count) | (which >= count), bool)
    if wrong.any():
        raise IndexError(f"patch {which[wrong][0]} is out of range: the set has {count} patches")
    which = which.astype(np.int64)
    return np.where(which < 0, which + count, which)


def buffers_for(
    out: OneArray | ArraysByName | None, dtypes: Mapping[str, np.dtype[Any]], shape: tuple[int, ...]
) -> ArraysByName:
    """The memory that arrays are read into: what is given, and new memory for the others."""
    if isinstance(out, np.ndarray):
        if len(dtypes) != 1:
            raise ValueError(f"out is one array, {len(dtypes)} are read ({', '.join(dtypes)}): give a dict of arrays")
        out = dict.fromkeys(dtypes, out)
    given = out or {}
    stray = [name for name in given if name not in dtypes]
    if stray:
        raise ValueError(f"out has {stray[0]!r}, which is not read; read are {', '.join(dtypes)}")
    for name, target in given.items():
        if target.shape != shape or target.dtype != dtypes[name] or not target.flags.writeable:
            raise ValueError(
                f"out for {name} has shape {target.shape} of {target.dtype}, wanted {shape} of {dtypes[name]}"
            )
    return {name: given[name] if name in given else empty_buffer(shape, kind) for name, kind in dtypes.items()}


def patches_of_size(patches: ArrayLike, size: tuple[int, int], name: str) -> NDArray[Any]:
    """Patches given in the place of a set's own, `(N, h, w)` or `(N, C, h, w)`; ReassemblyError for another size."""
    stack = checked_patches(patches)
    if stack.shape[-2:] != size:
        seen, wanted = ("x".join(map(str, each)) for each in (stack.shape[-2:], size))
        raise ReassemblyError(
            f"{name}: the patches are {seen} pixels, those of the set are {wanted}; pad the model's convolutions or "
            "resample its output so that each pixel keeps its place, or give ctpatch.reassemble the origins, and the "
            "model's scale or margin"
        )
    return stack
