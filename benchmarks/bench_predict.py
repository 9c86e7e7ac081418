"""`ctpatch.predict` side by side with the sliding windows of MONAI and TorchIO: the same model, windows and batches.

Each round does every slice once with each program, one after the other. A ratio is the least time of ctpatch divided
by the least time of the other, over all rounds: what else runs on the machine adds time and never takes any away. Time
is that of the processor, over all threads, so that waiting for a turn does not count; on a machine that does nothing
else, `--threads 1` makes it the time that passes. A program that is not installed stands in the table with its reason.

Windows of 128 with half of them overlapping, batches of 16, blended by a bell (`gaussian`, `hann`). `identity` is what
the programs cost around a model; the two networks are what a user runs.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from measure import machine, seconds, versions

import ctpatch

SIZE, STRIDE, BATCH = 128, 64, 16
Predict = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


def networks() -> dict[str, Any]:
    """Models from nothing to a small denoiser."""
    torch.manual_seed(0)
    body = [layer for _ in range(4) for layer in (torch.nn.Conv2d(16, 16, 3, padding=1), torch.nn.ReLU())]
    return {
        "identity": torch.nn.Identity(),
        "one convolution": torch.nn.Conv2d(1, 1, 3, padding=1),
        "six convolutions": torch.nn.Sequential(
            torch.nn.Conv2d(1, 16, 3, padding=1), torch.nn.ReLU(), *body, torch.nn.Conv2d(16, 1, 3, padding=1)
        ),
    }


def ours(model: Any, window: Any) -> Predict:
    config = ctpatch.PatchConfig(patch_size=SIZE, stride=STRIDE, pad_mode="even")
    return lambda image: ctpatch.predict(model, image, config, BATCH, window)


def monai(model: Any) -> Predict:
    from monai.inferers import SlidingWindowInferer

    inferer = SlidingWindowInferer((SIZE, SIZE), BATCH, overlap=1 - STRIDE / SIZE, mode="gaussian")

    def predict(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            return np.asarray(inferer(torch.from_numpy(image)[None, None], model)[0, 0])

    return predict


def torchio(model: Any) -> Predict:
    import torchio as tio
    from torch.utils.data import DataLoader

    def predict(image: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        subject = tio.Subject(image=tio.ScalarImage(tensor=torch.from_numpy(image)[None, :, :, None]))
        sampler = tio.GridSampler(subject, (SIZE, SIZE, 1), (SIZE - STRIDE, SIZE - STRIDE, 0))
        aggregator = tio.data.GridAggregator(sampler, overlap_mode="hann")
        with torch.no_grad():
            for batch in DataLoader(sampler, batch_size=BATCH):
                made = model(batch["image"][tio.DATA][..., 0])
                aggregator.add_batch(made[..., None], batch[tio.LOCATION])
        return np.asarray(aggregator.get_output_tensor()[0, :, :, 0])

    return predict


PROGRAMS: dict[str, Callable[[Any], Predict]] = {
    "ctpatch, gaussian": lambda model: ours(model, "gaussian"),
    "ctpatch, hann": lambda model: ours(model, "hann"),
    "MONAI SlidingWindowInferer, gaussian": monai,
    "TorchIO GridSampler and GridAggregator, hann": torchio,
}
AGAINST = {"MONAI": "ctpatch, gaussian", "TorchIO": "ctpatch, hann"}


def all_of(work: Predict, slices: list[np.ndarray[Any, Any]]) -> None:
    for image in slices:
        work(image)


def measured(name: str, model: Any, slices: list[np.ndarray[Any, Any]], rounds: int) -> None:
    model.eval()
    works: dict[str, Predict] = {}
    failed: dict[str, str] = {}
    for program, make in PROGRAMS.items():
        try:
            works[program] = make(model)
            if name == "identity":
                np.testing.assert_allclose(works[program](slices[0]), slices[0], atol=1e-3)
            works[program](slices[0])
        except Exception as error:  # noqa: BLE001 - whatever stops a program is its line in the table
            works.pop(program, None)
            failed[program] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:100]}"
    times: dict[str, list[float]] = {program: [] for program in works}
    passed: dict[str, list[float]] = {program: [] for program in works}
    for _ in range(rounds):
        for program, work in works.items():
            start = time.process_time()
            passed[program].append(seconds(partial(all_of, work, slices)) / len(slices))
            times[program].append((time.process_time() - start) / len(slices))
    for program, each in times.items():
        other = next((mine for peer, mine in AGAINST.items() if program.startswith(peer)), None)
        ratio = "" if other is None else f"{min(times[other]) / min(each):.2f}"
        cells = f"{min(each) * 1e3:.1f} | {statistics.median(each) * 1e3:.1f} | {min(passed[program]) * 1e3:.1f}"
        print(f"| {name} | {program} | {cells} | {ratio} |")
    for program, reason in failed.items():
        print(f"| {name} | {program} | not measured: {reason} | | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slices", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--side", type=int, default=512, help="height and width of a slice in pixels")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.simplefilter("ignore")  # what peers deprecate is not ours to print
    rng = np.random.default_rng(0)
    slices = [rng.random((options.side, options.side), dtype=np.float32) for _ in range(options.slices)]
    found = f"{versions(['torch', 'monai', 'torchio'])}, {torch.get_num_threads()} threads"
    print(f"{machine()}; {found}; {options.side}x{options.side}\n")
    print("| model | program | least, ms of processor a slice | median | least that passed, ms | ctpatch / it |")
    print("|---|---|---|---|---|---|")
    for name, model in networks().items():
        measured(name, model, slices, options.rounds)


if __name__ == "__main__":
    main()
