"""Work for executors, by functions that a spawned process imports by name: so this module imports little."""

import os
import signal
from collections.abc import Iterator

from ctpatch.cutting.cut import complete_part, cut_slices
from ctpatch.cutting.job import Job
from ctpatch.cutting.plan import Part
from ctpatch.cutting.receipt import CutReceipt, trusted_receipt
from ctpatch.cutting.rows import CutSlice

POISONED = "poisoned.txt"
"""Below the data root: the path of a slice that ends the process that cuts it, every time."""
WOUNDED = "wounded.txt"
"""Below the data root: the same, the first time only."""


def run_part_or_die(job: Job, part: Part) -> CutReceipt:
    """As `run_part`, in the middle of which a process may be ended: pixels are written, the receipt is not."""
    return trusted_receipt(job, part, check_sources=True) or complete_part(job, part, _cut(job, part))


def probe_or_die(job: Job, part: Part) -> int:
    """As a build looks for the slice that ends its process."""
    return sum(1 for _ in _cut(job, part))


def _cut(job: Job, part: Part) -> Iterator[CutSlice]:
    for piece in cut_slices(job, part):
        for name, once in ((POISONED, False), (WOUNDED, True)):
            mark = job.data_root / name
            if piece.reason is None and mark.exists() and mark.read_text() == piece.task.name:
                if once:
                    mark.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        yield piece


def run_part_anew(job: Job, part: Part) -> CutReceipt:
    """Do a part whether it was done or not."""
    return complete_part(job, part, cut_slices(job, part))
