"""A batch that somebody keeps holds its patches, however it is kept; memory is used again in the ordinary loop."""

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.loading.options import Batch
from helpers import LAYOUTS, build_one, make_split, reference_set


@pytest.fixture(params=[0, 1, 2, 5])
def prefetch(request: pytest.FixtureRequest) -> int:
    read_ahead: int = request.param
    return read_ahead


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[ctpatch.PatchSet, dict[str, NDArray[Any]]]:
    """60 pairs of patches and masks, and their pixels as they were cut from the slices without ctpatch."""
    prepared = make_split(tmp_path, arrays={"target": "f4", "mask": "u1"})
    build_one(prepared, layout="shards")
    wanted = {array: reference_set(images, dtype=images[0].dtype)[1] for array, images in prepared.images.items()}
    return ctpatch.open(prepared.out), wanted


@pytest.fixture(params=LAYOUTS)
def one(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[ctpatch.PatchSet, NDArray[Any]]:
    """60 patches in each layout, and their pixels."""
    prepared = make_split(tmp_path)
    build_one(prepared, layout=request.param)
    return ctpatch.open(prepared.out), reference_set(prepared.images["image"])[1]


@pytest.mark.parametrize("in_memory", [False, True])
def test_a_list_of_all_batches(one: Any, prefetch: int, in_memory: bool) -> None:
    ps, wanted = one
    ps = ctpatch.open(ps.folder, in_memory=in_memory)
    kept = list(ps.batches(7, shuffle=True, seed=3, prefetch=prefetch))
    assert len(kept) == 9
    for batch in kept:
        assert np.array_equal(batch.arrays["image"][:, 0], wanted[batch.indices])


def test_some_batches_of_several_epochs(pairs: Any, prefetch: int) -> None:
    """Some are kept whole, some in part, some let go, so that memory comes back in any order."""
    ps, wanted = pairs
    loader = ps.batches(7, shuffle=True, seed=3, prefetch=prefetch, columns=["row"])
    kept: list[tuple[str, NDArray[Any], NDArray[np.int64], int]] = []
    for number, batch in enumerate(itertools.chain(loader, loader, loader)):
        if number % 3 == 0:
            kept += [(name, array, batch.indices, 0) for name, array in batch.arrays.items()]
        elif number % 3 == 1:
            kept.append(("mask", batch.arrays["mask"][3:, 0, 2:5], batch.indices[3:], 2))
    assert len(kept) == 36
    for name, array, indices, row in kept:
        patches = wanted[name][indices]
        assert np.array_equal(array, patches[:, row : row + 3] if row else patches[:, np.newaxis])


def test_two_passes_at_a_time(pairs: Any, prefetch: int) -> None:
    ps, wanted = pairs
    loader = ps.batches(7, shuffle=True, prefetch=prefetch)
    kept = [batch for both in zip(loader, loader, strict=True) for batch in both]
    for batch in kept:
        assert np.array_equal(batch.arrays["target"][:, 0], wanted["target"][batch.indices])


def test_a_transform_that_keeps_batches(pairs: Any, prefetch: int) -> None:
    ps, wanted = pairs
    seen: list[Batch[Any]] = []

    def half_of_the_one_before(batch: Batch[Any]) -> Batch[Any]:
        seen.append(batch)
        before = seen[-2].arrays["target"][:4] if len(seen) > 1 else batch.arrays["target"][:4]
        mixed = {"mixed": (batch.arrays["image"][:4] + before) / 2}
        return Batch(mixed, batch.columns, batch.indices, batch.epoch, batch.seed, batch.set_size)

    batches = list(ps.batches(7, prefetch=prefetch, transform=half_of_the_one_before))
    before = range(4)
    for batch in batches:
        expected = (wanted["image"][batch.indices[:4]] + wanted["target"][list(before)]) / 2
        assert np.array_equal(batch.arrays["mixed"][:, 0], expected)
        before = batch.indices[:4]
    for first, batch in zip(itertools.count(0, 7), seen, strict=False):
        assert np.array_equal(batch.arrays["image"][:, 0], wanted["image"][first : first + 7])


def test_what_is_done_to_a_batch_stays_in_it(pairs: Any, prefetch: int) -> None:
    """Numbers of patches and columns are the batch's own, like its pixels."""
    ps, wanted = pairs
    loader = ps.batches(7, prefetch=prefetch, columns=["row", "std"])
    for epoch in range(2):
        for first, batch in zip(itertools.count(0, 7), loader, strict=False):
            numbers = list(range(first, min(first + 7, 60)))
            assert batch.indices.tolist() == numbers
            assert batch.columns["row"].tolist() == ps.manifest["row"].gather(numbers).to_list()
            assert np.array_equal(batch.arrays["mask"][:, 0], wanted["mask"][numbers])
            batch.indices[...] = 59
            for array in (*batch.columns.values(), *batch.arrays.values()):
                array[...] = 0
        assert loader.epoch == epoch + 1


def test_memory_is_used_again_in_the_ordinary_loop(pairs: Any) -> None:
    """The caller has one batch, one is on its way, two are read ahead: four of each of the two sizes, and no more."""
    ps, _ = pairs
    loader = ps.batches(4, prefetch=2, arrays=["image", "mask"])
    places: dict[str, set[int]] = {"image": set(), "mask": set()}
    for _ in range(3):
        for batch in loader:
            for name, array in batch.arrays.items():
                places[name].add(array.ctypes.data)
    assert all(1 <= len(found) <= 4 for found in places.values())


def test_a_batch_of_a_senseless_size_takes_no_more_memory_than_its_patches(pairs: Any) -> None:
    ps, wanted = pairs
    (batch,) = ps.batches(10**15, prefetch=10**15)
    assert np.array_equal(batch.arrays["image"][:, 0], wanted["image"])


@pytest.mark.parametrize("copy", [True, False])
def test_copy_is_deprecated_and_does_nothing(pairs: Any, copy: bool) -> None:
    ps, wanted = pairs
    with pytest.warns(DeprecationWarning, match="copy: deprecated, and without effect") as caught:
        loader = ps.batches(7, copy=copy)
    assert [each.filename for each in caught] == [__file__]
    kept = list(loader)
    assert np.array_equal(np.concatenate([batch.arrays["image"][:, 0] for batch in kept]), wanted["image"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ps.batches(7)


class TestTorch:
    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        pytest.importorskip("torch", reason="torch is not installed: pip install torch")

    def test_batches_kept_in_every_way(self, one: Any, prefetch: int) -> None:
        import torch

        from ctpatch.torch import PatchLoader

        ps, wanted = one
        ways: dict[str, Callable[[Any], Any]] = {
            "itself": lambda batch: batch,
            "to the processor": lambda batch: batch.to("cpu"),
            "floats of floats": lambda batch: batch.float(),
            "a view": lambda batch: batch.view(-1, 1, 256).view(-1, 1, 16, 16)[:],
            "detached": lambda batch: batch.detach(),
            "contiguous": lambda batch: batch.contiguous(),
            "of NumPy": lambda batch: torch.from_numpy(batch.numpy()),
            "NumPy": lambda batch: batch.numpy(),
            "DLPack": vars(torch)["from_dlpack"],
        }
        loader = PatchLoader(ps, 7, prefetch=prefetch)
        for name, keep in ways.items():
            kept = [np.asarray(batch) for batch in [keep(batch) for batch in loader]]
            assert np.array_equal(np.concatenate(kept)[:, 0], wanted), name
        cycled = list(itertools.islice(itertools.cycle(loader), 25))
        found = torch.cat(cycled)[:, 0].numpy()
        assert np.array_equal(found, np.concatenate([wanted, wanted, wanted])[: len(found)])
        assert len(found) == 7 * 23 + 4 * 2

    def test_the_gradient_of_a_loss_of_all_batches(self, one: Any) -> None:
        """The squared sums of all patches times a weight: its gradient is known, and needs every batch as it was."""
        import torch

        from ctpatch.torch import PatchLoader

        ps, wanted = one
        weight = torch.ones((), dtype=torch.float64, requires_grad=True)
        loss: Any = sum(((batch.double() * weight) ** 2).sum() for batch in PatchLoader(ps, 7))
        loss.backward()
        assert weight.grad is not None
        np.testing.assert_allclose(weight.grad.item(), 2 * (wanted.astype(np.float64) ** 2).sum(), rtol=1e-12)
        weight = torch.ones((), requires_grad=True)
        kernel = torch.ones(1, 1, 1, 1, requires_grad=True)  # a convolution keeps the batch itself for its gradient
        outputs = [torch.nn.functional.conv2d(batch, kernel).square().sum() for batch in PatchLoader(ps, 7)]
        total: Any = torch.stack(outputs).sum()
        total.backward()
        assert kernel.grad is not None
        np.testing.assert_allclose(kernel.grad.item(), 2 * (wanted.astype(np.float64) ** 2).sum(), rtol=1e-4)

    def test_dicts_and_columns(self, pairs: Any, prefetch: int) -> None:
        from ctpatch.torch import PatchLoader

        ps, wanted = pairs
        kept = list(PatchLoader(ps, 7, prefetch=prefetch, columns=["row"]))
        for name, pixels in wanted.items():
            assert np.array_equal(np.concatenate([batch[name].numpy() for batch in kept])[:, 0], pixels)
        assert [row for batch in kept for row in batch["row"].tolist()] == ps.manifest["row"].to_list()

    def test_a_saved_batch_has_the_bytes_of_its_patches_alone(self, one: Any) -> None:
        from ctpatch.torch import PatchLoader

        sizes = [batch.untyped_storage().nbytes() for batch in PatchLoader(one[0], 16)]
        assert sizes == [16 * 256 * 4] * 3 + [12 * 256 * 4]

    def test_where_cuda_is_used_memory_is_torchs_own_and_pinned(
        self, pairs: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import torch

        from ctpatch.torch import PatchLoader

        ps, wanted = pairs
        asked: list[tuple[tuple[int, ...], Any, bool]] = []
        plain = torch.empty

        def empty(shape: Any, *, dtype: Any, pin_memory: bool = False) -> torch.Tensor:
            asked.append((tuple(shape), dtype, pin_memory))
            return plain(shape, dtype=dtype)

        monkeypatch.setattr(torch, "empty", empty)
        list(PatchLoader(ps, 32))
        assert asked == []
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
        kept = list(PatchLoader(ps, 32, arrays=["image", "mask"]))
        shapes = [(32, 1, 16, 16), (28, 1, 16, 16)]
        assert asked == [(shape, dtype, True) for shape in shapes for dtype in (torch.float32, torch.uint8)]
        for name in ("image", "mask"):
            assert np.array_equal(torch.cat([batch[name] for batch in kept])[:, 0].numpy(), wanted[name])
