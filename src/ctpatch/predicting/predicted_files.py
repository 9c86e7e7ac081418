"""The files of a predicted split: how they are called, and which array of the manifest each holds."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.config import check_name
from ctpatch.errors import UsageError
from ctpatch.format.prepared_meta import PREDICT_META, PredictedMeta, read_dataset_meta
from ctpatch.predicting.outputs import Key, Output
from ctpatch.work.product import Product

IMAGE = "image"
"""The array whose files stand in the manifest's column `path`."""

_CHANNEL = "channel"
"""What arrays of further channels are called where the model gives one output."""
_RESERVED = {"src", "patch", "shards", "image"}


def array_base(output: Output) -> str:
    """What the arrays of an output are called: its name, or `output_1` for an index.

    Raises:
        UsageError: the name is none for an array.
    """
    if output is None:
        return _CHANNEL
    if not isinstance(output, str):
        return f"output_{output}" if output >= 0 else f"output_last_{-output}"
    if output in _RESERVED - {IMAGE}:
        raise UsageError(f"output: an array of a set cannot be called {output!r}; let the model give it another name")
    return check_name(output, "output:")


def arrays_of(images: Mapping[Output, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of a slice, each `(H, W)`: a channel is an array of its own, as `build` reads them.

    The first is `image`: channel 0 of the output of this name, else of the first output.
    """
    first = IMAGE if IMAGE in images else next(iter(images))
    found: dict[str, NDArray[Any]] = {}
    for output in (first, *(each for each in images if each != first)):
        image, base = images[output], array_base(output)
        channels = list(image) if image.ndim == 3 else [image]  # noqa: PLR2004
        for number, channel in enumerate(channels):
            name = f"{base}_{number}" if len(channels) > 1 else base
            name = IMAGE if not found else name
            if name in found:
                raise UsageError(
                    f"output: two arrays would be called {name!r}; let the model give its outputs other names"
                )
            found[name] = np.ascontiguousarray(channel)
    return found


def file_name(split: str, index: int, array: str) -> str:
    """The file of a slice's array."""
    return f"{split}_{index:06d}.npy" if array == IMAGE else f"{split}_{index:06d}_{array}.npy"


class PredictedFiles(Product[PredictedMeta]):
    """The files of a predicted split."""

    noun = "prediction"
    made = "predicted"
    elsewhere = "give another dataset="
    anew = "overwrite=True"
    record = "predict.json"
    meta = PREDICT_META
    withdrawn = (PREDICT_META,)
    name_fields = ("split",)
    later_fields = ("outputs",)

    def read_meta(self, path: Path) -> PredictedMeta:
        """The meta in a file."""
        return read_dataset_meta(path, PredictedMeta)

    def names_of(self, meta: PredictedMeta) -> dict[str, Any]:
        """The split, and the outputs where there are several."""
        return split_names(meta.split, meta.options.get("output"))

    def folders(self, names: Mapping[str, Any]) -> list[str]:
        """None but its own."""
        del names
        return []

    def patterns(self, names: Mapping[str, Any]) -> dict[str, re.Pattern[str]]:
        """Slices and the manifest."""
        split = re.escape(names["split"])
        arrays = "|".join(re.escape(name) for name in (_CHANNEL, *names.get("outputs", ())))
        return {"": re.compile(rf"{split}_\d{{6,}}(_({arrays})(_\d+)?)?\.npy|{split}_manifest\.csv")}


def split_names(split: str, output: Output | Sequence[Key]) -> dict[str, Any]:
    """What decides how files are called: the split, and the outputs where several are put together."""
    return {"split": split} | ({"outputs": [array_base(each) for each in output]} if isinstance(output, list) else {})
