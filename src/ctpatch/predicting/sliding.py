"""A model over slices, window by window: one loop for a single slice and for the parts of a set."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ctpatch.core.grid import Grid
from ctpatch.core.reassembly import ReassembledSlice, Reassembler
from ctpatch.predicting.device_canvas import DeviceReassembler
from ctpatch.predicting.model import Caller
from ctpatch.predicting.options import Options
from ctpatch.predicting.outputs import Output
from ctpatch.predicting.shown import Shown
from ctpatch.predicting.windows import Windows

Pixels = Callable[[int], NDArray[Any]]
"""Gives a slice by its number, `(H, W)`, or what the model is to see of it, `(C, H, W)`."""

Finished = tuple[int, dict[Output, ReassembledSlice]]


def slid(
    grids: Mapping[int, Grid],
    pixels: Pixels,
    windows: Windows,
    call: Caller,
    options: Options,
    shown: Shown,
    names: list[str] | None = None,
) -> Iterator[Finished]:
    """Whole results, slice by slice in the order of the grids; batches run on over the ends of slices.

    Args:
        grids: for each slice where its windows are.
        pixels: gives the slices, each when its first window is needed.
        windows: how windows are cut.
        call: the model.
        options: how its output is put together.
        shown: how it is given values, and its output mapped back.
        names: what messages call each window; None says its number.
    """
    origins = np.array([origin for grid in grids.values() for origin in grid], np.int64).reshape(-1, 2)
    owners = np.repeat(list(grids), [len(grid) for grid in grids.values()])
    shapes = {index: grid.shape for index, grid in grids.items()}
    wholes: dict[Output, Reassembler | DeviceReassembler] = {}
    goes_back: dict[Output, bool] = {}
    stream = enumerate(_stream(grids, pixels, windows, call, shown))
    while batch := list(islice(stream, options.batch_size)):
        numbers = [number for number, _ in batch]
        answers = call(call.batch([patch for _, patch in batch]))
        done: list[Finished] = []
        for output, patches in answers.items():
            if output not in wholes:
                blend = options.blend(output)
                goes_back[output] = shown.goes_back(output, patches, scores=blend.argmax)
                if goes_back[output]:
                    blend = replace(blend, fill=float("nan"))  # the fill that is asked for is a value of the slice
                if isinstance(patches, np.ndarray):
                    wholes[output] = Reassembler(
                        owners,
                        # The output of a window begins a margin inside it, and the grid says where it begins.
                        origins[:, 0] - windows.margin,
                        origins[:, 1] - windows.margin,
                        shapes,
                        windows.config.patch_size,
                        blend.window,
                        fill=blend.fill,
                        names=names,
                        scale=blend.scale,
                        margin=blend.margin,
                        argmax=blend.argmax,
                    )
                else:
                    wholes[output] = DeviceReassembler(owners, origins, shapes, windows.inner.patch_size, blend)
            finished = wholes[output].add(numbers, patches)
            done = done or [(each.slice_index, {}) for each in finished]
            for (_, results), each in zip(done, finished, strict=True):
                results[output] = shown.back(each, options.fill) if goes_back[output] else each
        del answers, patches  # which may be views of the batch, whose memory is used for the next
        yield from done
    for whole in wholes.values():
        whole.finish()


def _stream(grids: Mapping[int, Grid], pixels: Pixels, windows: Windows, call: Caller, shown: Shown) -> Iterator[Any]:
    """The windows of all slices; on a device of its own, the slice is copied there once."""
    for index, grid in grids.items():
        padded: Any = shown.apply(windows.padded(pixels(index), grid))
        if call.side is not None and call.side.stays:
            padded = call.side.put(padded)
        yield from windows.patches(padded, grid)
