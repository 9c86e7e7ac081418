"""Which pixels of a slice lie inside the patient: not the air around, not the table, not a blanket.

What is below the level and enclosed by the patient is inside: lungs, bowel gas, the windpipe.
"""

from typing import TYPE_CHECKING, Any

from ctpatch.extras import library

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ctpatch.core.statistics.cells import Image
    from ctpatch.core.statistics.columns import Levels

    Mask = NDArray[np.bool_]
    Numbers = NDArray[np.int32]

NEEDS_SCIPY = "body_fraction needs scipy"

_UNITS_A_SIDE = 170
"""A unit is this part of the shorter side, 2 to 3 mm where a slice shows 350 to 500 mm: half a table's thickness."""
_LEAST_OF_SLICE, _LEAST_ROUNDNESS = 0.01, 0.25
"""Of the patient: the share of the slice, and 4 pi area / outline**2, which is 1 for a disc and 0.1 for a table top."""
_LEAST_OF_BODY, _LIMB_ROUNDNESS = 0.03, 0.4
"""The same of an arm or a leg that lies apart, its area as a share of the patient's largest piece."""
_LEAST_LUNG, _LUNG_ASPECT = 0.001, 0.3
"""Of a lung: its share of the slice, and the shorter side of its box by the longer one."""
_ENCLOSED = 0.75
"""So much of a hole's rim must be the patient's: a gap between back and table has half."""


def body_map(image: "Image", levels: "Levels") -> "Mask":
    """Tell which pixels lie inside the patient.

    What is above `levels.body` is tissue, and so are lungs that it encloses. Opening takes away what is thin: table
    tops, blankets, tubes, up to about 5 mm. Of the pieces that are left, the largest that is round enough is the
    patient. Arms and legs are other pieces, large and round enough, that do not lie below it. They grow back by what
    the opening took. At last holes are filled, and lungs that the border of the picture cuts open, which
    `levels.air` tells from air.

    Args:
        image: slice of shape (H, W); a pixel that is NaN is no tissue.
        levels: `body` lies between air and tissue, `air` between air and lung.

    Returns:
        (H, W), True inside the patient; False everywhere where the slice shows none.

    Raises:
        UsageError: scipy is not installed.
    """
    ndimage = library("scipy.ndimage", NEEDS_SCIPY)
    label = ndimage.label
    tissue: Mask = image > levels.body
    unit = max(1, round(min(image.shape) / _UNITS_A_SIDE))
    # A wall that is thinner than the opening stays where a lung is behind it.
    solid = tissue | _lungs(image, tissue, levels, ndimage)
    body = _largest_pieces(_filled(_opened(solid, unit), label), label)
    if body.any():
        body |= tissue & _grown(body, unit)
        holes = _holes(tissue | body, body, label)
        # And comes back where gas is behind it.
        body |= holes | (tissue & _grown(holes, 2 * unit))
        body |= _open_lungs(image, body, levels.air, label)
    return body


def _lungs(image: "Image", tissue: "Mask", levels: "Levels", ndimage: Any) -> "Mask":
    """What tissue encloses, is more than air, and is no long and low inside of a table.

    Under a window that begins above the air level lung is as dark as air, and anything enclosed may be one.
    """
    import numpy as np  # noqa: PLC0415

    labels, count = ndimage.label(~tissue)
    area = np.bincount(labels.ravel(), minlength=count + 1)
    inside = ~_is_open(labels, count) & (area >= _LEAST_LUNG * tissue.size)
    inside[0] = False
    boxes = ndimage.find_objects(labels)
    for piece in np.flatnonzero(inside):
        box = boxes[piece - 1]
        sides = [each.stop - each.start for each in box]
        own = labels[box] == piece
        dense = levels.body <= levels.air or np.median(image[box][own]) > levels.air
        inside[piece] = dense and min(sides) >= _LUNG_ASPECT * max(sides)
    found: Mask = inside[labels]
    return found


def _largest_pieces(mask: "Mask", label: Any) -> "Mask":
    """The pieces of the mask that are the patient's."""
    import numpy as np  # noqa: PLC0415

    labels, count = label(mask)
    area = np.bincount(labels.ravel(), minlength=count + 1).astype(np.float64)
    outline = np.bincount(labels[mask & ~_shrunk(mask, 1)], minlength=count + 1)
    roundness = 4 * np.pi * area / np.maximum(outline, 1) ** 2
    area[0] = 0.0
    fits = (area >= _LEAST_OF_SLICE * mask.size) & (roundness >= _LEAST_ROUNDNESS)
    if not fits.any():
        return np.zeros_like(mask)
    largest = int(np.argmax(np.where(fits, area, 0.0)))
    limbs = (area >= _LEAST_OF_BODY * area[largest]) & (roundness >= _LIMB_ROUNDNESS)
    bottom = int(np.flatnonzero((labels == largest).any(axis=1))[-1])
    above = np.zeros(count + 1, np.bool_)
    above[labels[: bottom + 1]] = True  # what lies wholly below is a part of the table
    wanted = limbs & above
    wanted[largest] = True
    found: Mask = wanted[labels]
    return found


def _holes(solid: "Mask", body: "Mask", label: Any) -> "Mask":
    """What is not solid, does not reach the border of the picture, and has most of its rim in the patient."""
    import numpy as np  # noqa: PLC0415

    labels, count = label(~solid)
    rim, touching = np.zeros(count + 1, np.int64), np.zeros(count + 1, np.int64)
    for here, there in _neighbours():
        of = labels[here]
        meets = (of > 0) & (labels[there] == 0)
        rim += np.bincount(of[meets], minlength=count + 1)
        touching += np.bincount(of[meets & body[there]], minlength=count + 1)
    inside = (rim > 0) & (touching >= _ENCLOSED * rim) & ~_is_open(labels, count)
    found: Mask = inside[labels]
    return found


def _open_lungs(image: "Image", body: "Mask", air_level: float, label: Any) -> "Mask":
    """What the patient parts from the air around, up to the border of the picture, and is more than air itself.

    Foam and table together may be more than air as well, but they reach along a whole side of the picture.
    """
    import numpy as np  # noqa: PLC0415

    labels, count = label(~body)
    corners = np.bincount(labels[[0, 0, -1, -1], [0, -1, 0, -1]], minlength=count + 1)
    inside = _is_open(labels, count) & (corners <= 1)
    inside[0] = False
    for piece in np.flatnonzero(inside):
        inside[piece] = np.median(image[labels == piece]) > air_level
    found: Mask = inside[labels]
    return found


def _is_open(labels: "Numbers", count: int) -> "Mask":
    """For each piece, `(count + 1,)`, whether it reaches the border of the picture."""
    import numpy as np  # noqa: PLC0415

    found = np.zeros(count + 1, np.bool_)
    for side in (labels[0], labels[-1], labels[:, 0], labels[:, -1]):
        found[side] = True
    return found


def _filled(mask: "Mask", label: Any) -> "Mask":
    """The mask without its holes: what is not reached from the border of the picture."""
    labels, count = label(~mask)
    outside = _is_open(labels, count)
    outside[0] = False
    found: Mask = ~outside[labels]
    return found


def _neighbours() -> tuple[tuple[Any, Any], ...]:
    """Pixels and their neighbours in each of four directions, as places in a picture."""
    first, last, every = slice(None, -1), slice(1, None), slice(None)
    pairs = (((first, every), (last, every)), ((every, first), (every, last)))
    return tuple(pair for each in pairs for pair in (each, each[::-1]))


def _grown(mask: "Mask", steps: int) -> "Mask":
    """The mask grown by an octagon: a cross and a square in turn. What lies beyond the border adds nothing."""
    up, down, left, right = _neighbours()
    for step in range(steps):
        grown = mask.copy()
        for here, there in (up, down):
            grown[here] |= mask[there]
        before = grown.copy() if step % 2 else mask
        for here, there in (left, right):
            grown[here] |= before[there]
        mask = grown
    return mask


def _shrunk(mask: "Mask", steps: int) -> "Mask":
    """The mask shrunk by an octagon; the border of the picture takes nothing, since the patient goes on there."""
    return ~_grown(~mask, steps)


def _opened(mask: "Mask", steps: int) -> "Mask":
    return _grown(_shrunk(mask, steps), steps)
