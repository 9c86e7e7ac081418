"""What a prepared data set's folder holds: how its files are called."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctpatch.format.hu_values import HU_VALUES
from ctpatch.format.prepared_meta import PREPARE_META, PreparedMeta, read_dataset_meta
from ctpatch.work.product import Product

LEFT_OUT = "left_out.csv"


def slice_name(split: str, array: str, index: int) -> str:
    """A prepared slice's file, relative to the data set's folder."""
    middle = "" if array == "image" else f"{array}_"
    return f"{split}/{split}_{middle}{index:06d}.npy"


class PreparedFiles(Product[PreparedMeta]):
    """The files of a prepared data set."""

    noun = "preparation"
    made = "prepared"
    elsewhere = "choose another --dataset"
    record = "prepare.json"
    meta = PREPARE_META
    tables = (LEFT_OUT, HU_VALUES)
    withdrawn = (PREPARE_META,)
    name_fields = ("splits", "arrays")

    def read_meta(self, path: Path) -> PreparedMeta:
        """The meta in a file."""
        return read_dataset_meta(path, PreparedMeta)

    def names_of(self, meta: PreparedMeta) -> dict[str, Any]:
        """The splits and the arrays."""
        return {"splits": list(meta.splits), "arrays": list(meta.arrays)}

    def folders(self, names: Mapping[str, Any]) -> list[str]:
        """A folder for each split."""
        return list(names["splits"])

    def patterns(self, names: Mapping[str, Any]) -> dict[str, re.Pattern[str]]:
        """Slices and manifests of each split."""
        arrays = "|".join(re.escape(array) for array in names["arrays"])
        escaped = {split: re.escape(split) for split in names["splits"]}
        return {
            split: re.compile(rf"{name}_(({arrays})_)?\d{{6,}}\.npy|{name}_manifest\.csv")
            for split, name in escaped.items()
        }


PREPARED_SET = PreparedFiles()
