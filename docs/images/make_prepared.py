"""Draw `prepared.png`: prepared slices of the collection Lung-PET-CT-Dx, a pair of kernels.

Run it as `python docs/images/make_prepared.py FOLDER`, FOLDER being a split that `ctpatch prepare` made of that
collection with `--series "*B70f*" --target-series "*B40f*"`; it writes the picture beside itself. The data are CC BY
4.0, doi 10.7937/TCIA.2020.NNC2-0461: name the collection wherever you show the picture.
"""

import sys
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

OUT = Path(__file__).with_name("prepared.png")
SLICES = (4, 13, 24)
CROP = slice(76, 436)
HIGHEST_HU = 600


def main() -> None:
    """Read the slices, show -1024 to 600 HU of the -1024 to 3072 they hold, save."""
    split = Path(sys.argv[1])
    rows = pl.read_csv(next(split.glob("*_manifest.csv")))
    lines = []
    for column in ("path", "target_path"):
        files = [split / Path(rows[column][number]).name for number in SLICES]
        lines.append(np.concatenate([np.load(file)[CROP] for file in files], axis=1))
    shown = np.clip(np.concatenate(lines) * 4096 / (HIGHEST_HU + 1024), 0, 1)
    picture = Image.fromarray((shown * 63).astype(np.uint8) * 4)
    picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    picture.save(OUT, optimize=True)


if __name__ == "__main__":
    main()
