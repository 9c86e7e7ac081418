"""What a type checker knows of the public names: checked by mypy, and run by `tests/integration/test_typed_api.py`.

`assert_type` holds the type against the one that users are to see; where a line has to be an error, `type: ignore`
says which, and mypy reports it once the line is none.
"""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.checking.findings import VerifyReport
from ctpatch.core.reassembly import ReassembledSlice
from ctpatch.cutting.plan import SplitPlan
from ctpatch.loading.batches import BatchLoader
from ctpatch.loading.options import Batch

Array = NDArray[Any]
Arrays = dict[str, NDArray[Any]]


def geometry(image: NDArray[np.float32]) -> None:
    config = assert_type(ctpatch.PatchConfig(patch_size=16, stride=8), ctpatch.PatchConfig)
    assert_type(ctpatch.Rule.parse("flat: std < 0.01"), ctpatch.Rule)
    coords = assert_type(ctpatch.sliding_window_coords(40, 48, config), list[tuple[int, int]])
    patches, places = ctpatch.extract_patches_2d(image, config)
    assert_type(patches, NDArray[np.float32])
    assert places == assert_type(places, list[tuple[int, int]]) == coords
    whole = assert_type(ctpatch.reassemble(patches, coords, (40, 48)), Array)
    assert_type(ctpatch.seam_error(whole, image, coords, (16, 16)), tuple[float, float])
    rows, cols = np.array(coords).T
    maker = ctpatch.Reassembler(np.zeros(len(coords), np.int64), rows, cols, {0: (40, 48)}, (16, 16))
    done = assert_type(maker.add(range(len(coords)), patches), list[ReassembledSlice])
    assert done[0].image.shape == whole.shape
    assert_type(ctpatch.__version__, str)


def cutting(split: Path, tmp_path: Path) -> Path:
    config = ctpatch.PatchConfig(patch_size=16, stride=8)
    (planned,) = assert_type(ctpatch.plan(split, config), list[SplitPlan])
    assert_type(planned.num_windows, int)
    (built,) = assert_type(ctpatch.build(split, config, layout="shards"), list[ctpatch.BuildResult])
    folder = assert_type(built.folder, Path)
    with pytest.raises(ctpatch.CtPatchError) as error:
        ctpatch.build(split, config, on_error="never")  # type: ignore[arg-type]
    assert_type(error.value.code, str)
    shares = ctpatch.build_share(split, "1/1", config, out=tmp_path / "shared")
    assert_type(shares, list[ctpatch.ShareResult])
    assert_type(ctpatch.merge(shares[0].folder, data_root=split.parents[2]), ctpatch.BuildResult)
    other = ctpatch.convert(folder, tmp_path / "index", layout="index")
    assert_type(other, ctpatch.BuildResult)
    assert assert_type(ctpatch.verify(folder, deep=True), VerifyReport).ok
    with pytest.raises(ctpatch.CtPatchError, match="only one split"):
        assert_type(ctpatch.audit([folder]), ctpatch.AuditReport)
    return folder


def showing(folder: Path, out: Path) -> None:
    assert_type(ctpatch.report(folder, out), Path)
    assert_type(ctpatch.report([ctpatch.open(folder, arrays=["image"])], out), Path)


def evaluating(folder: Path, out: Path) -> None:
    found = assert_type(ctpatch.evaluate(folder, folder, array="target", data_range=1.0), ctpatch.Evaluation)
    assert assert_type(found["psnr"].mean_over_slices, float | None)
    assert_type(found.images(0), dict[str, Array])
    assert_type(ctpatch.evaluation_page(found, out), Path)
    with pytest.raises(TypeError):
        ctpatch.evaluate(folder, folder, window=(0, 1))  # type: ignore[call-arg]


def preparing(nowhere: Path, out: Path) -> None:
    with pytest.raises(ctpatch.CtPatchError):
        assert_type(ctpatch.inspect(nowhere), ctpatch.Inspection)
    with pytest.raises(ctpatch.CtPatchError):
        assert_type(ctpatch.prepare_dicom(nowhere, out, "some"), ctpatch.PrepareResult)
    with pytest.raises(ctpatch.CtPatchError):
        assert_type(ctpatch.prepare_nifti(nowhere, out, "some"), ctpatch.PrepareResult)
    with pytest.raises(ctpatch.CtPatchError):
        assert_type(ctpatch.prepare_metaimage(nowhere, out, "some", group_by="file"), ctpatch.PrepareResult)
    with pytest.raises(ctpatch.CtPatchError):
        assert_type(ctpatch.prepare_nrrd(nowhere, out, "some"), ctpatch.PrepareResult)
    with pytest.raises(ctpatch.CtPatchError):
        assert_type(ctpatch.prepare_numpy(nowhere, out, "some", axes="zyx"), ctpatch.PrepareResult)
    with pytest.raises(ctpatch.CtPatchError):
        assert_type(ctpatch.prepare_images(nowhere, out, "some", hu_preset="deeplesion"), ctpatch.PrepareResult)
    with pytest.raises(ctpatch.CtPatchError):
        assert_type(ctpatch.prepare_lodopab(nowhere, out, "some"), ctpatch.PrepareResult)
    with pytest.raises(ctpatch.CtPatchError):
        assert_type(ctpatch.prepare_raw("nifti", nowhere, out, "some"), ctpatch.PrepareResult)


def reading_one(folder: Path) -> None:
    """A set that has one array, or of which one is meant: arrays, without a word more."""
    for ps in (ctpatch.open(folder, arrays="image"), assert_type(ctpatch.open(folder), ctpatch.PatchSet)):
        assert assert_type(ps[0], Array).shape == (16, 16)
        assert assert_type(ps[0:3], Array).shape == assert_type(ps[[0, 1, 2]], Array).shape == (3, 16, 16)
        assert assert_type(ps[np.arange(3)], Array).shape == (3, 16, 16)
        assert assert_type(ps.read([4, 5]), Array).shape == (2, 16, 16)
        assert assert_type(ps.slice(0), Array).ndim == 2
        for patch in ps:
            assert_type(patch, Array)
        out = np.empty((2, 16, 16), np.float32)
        assert assert_type(ps.read([4, 5], out=out), Array) is out
        assert set(assert_type(ps.read([0], arrays=["image"]), Arrays)) == {"image"}
        assert_type(ps.reassemble(0), Array)
        with pytest.raises(TypeError):
            ps["image"]  # type: ignore[index]


def reading_several(folder: Path) -> None:
    """A set of several arrays: a dict where they are listed, an array where one is named."""
    ps = ctpatch.open(folder, arrays=["image", "target"])
    assert_type(ps, ctpatch.PatchSet[Arrays])
    assert set(assert_type(ps[0], Arrays)) == {"image", "target"}
    assert assert_type(ps[0:3], Arrays)["target"].shape == (3, 16, 16)
    assert set(assert_type(ps.read(range(4)), Arrays)) == {"image", "target"}
    assert set(assert_type(ps.slice(0), Arrays)) == {"image", "target"}
    for patches in ps:
        assert_type(patches, Arrays)
    names: tuple[str, ...] = ("target",)
    assert set(assert_type(ps.read([0], arrays=names), Arrays)) == {"target"}
    assert assert_type(ps.read([0], arrays="target"), Array).shape == (1, 16, 16)
    assert set(assert_type(ps.slice(0, arrays=names), Arrays)) == {"target"}
    assert assert_type(ps.slice(0, arrays="target"), Array).ndim == 2
    assert_type(ps.read([0], out=np.empty((1, 16, 16), np.float32), arrays="target"), Array)
    assert_type(ps.read([0], out={}), Arrays)


def loading(ps: ctpatch.PatchSet) -> None:
    def brighter(batch: Batch[Array]) -> Batch[Array]:
        batch.arrays["image"] += 1
        return batch

    loader = ps.batches(8, shuffle=True, columns=["std"], arrays="image", transform=brighter, epoch=1, rank=0)
    assert_type(loader, BatchLoader[Array])
    for batch in loader:
        assert_type(batch, Batch[Array])
        assert_type(batch.arrays["image"], Array)
        assert_type(batch.columns["std"], Array)
        assert_type(batch.indices, NDArray[np.int64])
    assert_type(loader.state_dict(), dict[str, Any])
    with pytest.raises(TypeError):
        ps.batches(8, shufle=True)  # type: ignore[call-arg]
    with pytest.raises(ctpatch.CtPatchError):
        ps.batches("8")  # type: ignore[arg-type]


def drawing(split: Path) -> None:
    windows = assert_type(ctpatch.RandomWindows(16, per_slice=4, rules="air: mean < 0"), ctpatch.RandomWindows)
    slices = assert_type(ctpatch.open_slices(split), ctpatch.SliceSet)
    assert_type(slices.slice(0), Arrays)
    loader = slices.batches(4, windows=windows, transform=ctpatch.FlipsAndRotations())
    assert_type(loader, BatchLoader[Array])
    assert len(list(loader)) == 2
    assert_type(loader.drawn.redrawn, int)
    with pytest.raises(ctpatch.CtPatchError):
        slices.batches(4, windows=ctpatch.LabelWindows(16, labels=[1, 2]))
    with pytest.raises(ctpatch.CtPatchError):
        ctpatch.RandomWindows(16, pad_mode="mirror")  # type: ignore[arg-type]


def predicting(ps: ctpatch.PatchSet, out: Path) -> None:
    def same(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return batch

    image = ps.slice(0, arrays="image")
    restored: Array = ctpatch.predict(same, image, ctpatch.PatchConfig(patch_size=16, pad_mode="even"))
    assert restored.shape == image.shape
    config = ctpatch.PatchConfig(patch_size=16, pad_mode="even")
    folder = assert_type(ctpatch.predict(same, ps, out=out), Path)
    assert folder.is_dir()

    def two(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {"a": batch, "b": batch}

    assert_type(ctpatch.predict(model_fn=two, image=image, cfg=config, output="a"), Array)
    assert_type(ctpatch.predict(two, image, config, output="all"), dict[int | str, Array])
    several = assert_type(ctpatch.predict(two, image, config, output=["a", "b"]), dict[int | str, Array])
    assert list(several) == ["a", "b"]
    mapped = ctpatch.predict(two, image, config, output=["a", "b"], normalize=(0.5, 0.2), map_back=["a"])
    assert_type(mapped, dict[int | str, Array])
    near: Array = ctpatch.predict(lambda batch: batch[:, 1], np.stack([image] * 3), config, context=1)
    assert near.shape == image.shape
    with pytest.raises(TypeError):
        ctpatch.predict(same, image, scales=2)  # type: ignore[call-overload]
    with pytest.raises(ctpatch.CtPatchError):
        ctpatch.predict(same, image, tta="all")  # type: ignore[call-overload]


def loading_with_torch(folder: Path) -> None:
    import torch
    from torch.utils.data import DataLoader

    from ctpatch.torch import FlipsAndRotations, PatchDataset, PatchLoader, in_callers_thread, per_patch

    one, several = ctpatch.open(folder, arrays="image"), ctpatch.open(folder, arrays=["image", "target"])
    loader = PatchLoader(one, 8, shuffle=True, transform=FlipsAndRotations(), rank=None)
    assert_type(loader, PatchLoader)
    for batch in loader:
        assert assert_type(batch, torch.Tensor).shape[1:] == (1, 16, 16)

    def halved(sample: dict[str, torch.Tensor], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        return {name: each / 2 + rng.random() for name, each in sample.items()}

    PatchLoader(one, 8, transform=ctpatch.per_patch(halved))
    PatchLoader(one, 8, transform=in_callers_thread(per_patch(halved, purpose=2)))
    PatchLoader(one, 8, transform=ctpatch.in_callers_thread(ctpatch.per_patch(halved, purpose=2)))
    one.batches(8, transform=ctpatch.per_patch(halved))  # type: ignore[arg-type]
    for batch in PatchLoader(source=folder, batch_size=8, arrays="target"):
        assert assert_type(batch, torch.Tensor).shape[1:] == (1, 16, 16)
    for together in PatchLoader(folder, arrays=["image", "target"]):
        assert set(assert_type(together, dict[str, torch.Tensor])) == {"image", "target"}
    for together in PatchLoader(one, columns=["std"]):
        assert set(assert_type(together, dict[str, torch.Tensor])) == {"image", "std"}
    for together in PatchLoader(several):
        assert set(assert_type(together, dict[str, torch.Tensor])) == {"image", "target"}
    assert assert_type(PatchDataset(one)[0], torch.Tensor).shape == (1, 16, 16)
    assert assert_type(PatchDataset(folder, "target")[0], torch.Tensor).shape == (1, 16, 16)
    assert set(assert_type(PatchDataset(several)[0], dict[str, torch.Tensor])) == {"image", "target"}
    assert set(assert_type(PatchDataset(folder, ["image", "target"])[0], dict[str, torch.Tensor])) == {
        "image",
        "target",
    }
    whole: DataLoader[torch.Tensor] = DataLoader(PatchDataset(one), batch_size=4)
    assert len(whole) == -(-len(one) // 4)
    with pytest.raises(TypeError):
        PatchLoader(folder, shufle=True)  # type: ignore[call-overload]
