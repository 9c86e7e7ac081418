"""Windows of Hounsfield units (HU) that radiologists look through."""

WINDOWS = {
    "lung": (-600.0, 1500.0),
    "mediastinum": (50.0, 350.0),
    "abdomen": (40.0, 400.0),
    "liver": (50.0, 400.0),
    "bone": (400.0, 1800.0),
    "brain": (40.0, 80.0),
    "stroke": (40.0, 40.0),
}
"""Level (the middle) and width of each, in HU, as in Radiopaedia's article "Windowing (CT)"; liver is 30/150 there, and
wider in papers on segmentation. Levels vary by some 20 HU from one hospital to the next."""


def window_bounds(name: str) -> tuple[float, float]:
    """Lowest and highest HU of a window, from its level and width; KeyError where there is none of that name."""
    level, width = WINDOWS[name]
    return level - width / 2, level + width / 2
