"""What models give and how they are called: dtypes, several outputs, labels, modes; each right or refused in words."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import ConfigError, OutputConflictError, ReassemblyError, UsageError
from ctpatch.events import Notice
from helpers import SMALL, Heard, Prepared, build_one, csv_rows, make_split

EVEN = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode="even")
IMAGE = np.random.default_rng(0).random((40, 50), dtype=np.float32)


class Pair(NamedTuple):
    logits: Any
    aux: Any


def predicted(model: Callable[[Any], Any], image: Any = IMAGE, **options: Any) -> NDArray[Any]:
    result: NDArray[Any] = ctpatch.predict(model, image, options.pop("cfg", EVEN), **options)
    return result


def by_place(batch: NDArray[np.float32]) -> NDArray[np.int64]:
    """Class 0 or 2, of which one is more likely at the right of a patch, as a network gives them."""
    return 2 * (batch + np.linspace(0, 0.5, batch.shape[-1]) > 0.8).astype(np.int64)


@pytest.mark.parametrize("window", ["hann", "gaussian", "uniform"])
def test_class_numbers_stay_class_numbers(window: Any) -> None:
    found = predicted(by_place, window=window, batch_size=5)
    patches, coords = ctpatch.extract_patches_2d(IMAGE, EVEN)
    wanted = ctpatch.reassemble(by_place(patches[:, None])[:, 0], coords, IMAGE.shape, window)
    assert found.dtype == np.int64
    assert np.unique(found).tolist() == [0, 2]
    np.testing.assert_array_equal(found, wanted)


def test_labels_and_means_in_turn_are_refused() -> None:
    calls: list[int] = []

    def fickle(batch: NDArray[np.float32]) -> NDArray[Any]:
        calls.append(1)
        return by_place(batch) if len(calls) == 1 else batch

    with pytest.raises(ReassemblyError, match="int64 for one batch and float32 for another"):
        predicted(fickle, batch_size=4)


def test_labels_of_a_set_are_not_clipped(tmp_path: Path, prepared: Prepared) -> None:
    build_one(prepared)
    folder = ctpatch.predict(
        lambda batch: by_place(batch).astype(np.uint8), ctpatch.open(prepared.out), EVEN, out=tmp_path / "out"
    )
    for number, row in enumerate(csv_rows(folder / "train_manifest.csv")):
        found = np.load(tmp_path / "out" / row["path"])
        assert found.dtype == np.uint8
        assert (float(row["min"]), float(row["max"])) == (0, 2)
        assert set(np.unique(found)) == {0, 2}
        alone = predicted(by_place, prepared.images["image"][number])
        np.testing.assert_array_equal(found, alone)
    with pytest.raises(ctpatch.CtPatchError, match="no patch covers 80 of its pixels"):
        ctpatch.predict(by_place, ctpatch.open(prepared.out), SMALL, out=tmp_path / "holes")


def test_a_model_may_use_its_memory_again_and_change_its_input() -> None:
    memory = np.empty((4, 1, 16, 16), np.float32)

    def thrifty(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        batch *= 0.5
        memory[: len(batch)] = batch
        return memory[: len(batch)]

    before = IMAGE.copy()
    np.testing.assert_allclose(predicted(thrifty, batch_size=4), IMAGE * 0.5, atol=1e-6)
    np.testing.assert_array_equal(IMAGE, before)


def test_several_outputs_are_picked_by_index_or_name() -> None:
    def half(batch: NDArray[np.float32]) -> NDArray[np.float32]:
        return batch * np.float32(0.5)

    cases: list[tuple[Callable[[Any], Any], Any]] = [
        (lambda x: (half(x), x), 0),
        (lambda x: [x, half(x)], 1),
        (lambda x: (x, half(x)), -1),
        (lambda x: {"logits": half(x), "aux": x}, "logits"),
        (lambda x: {0: x, 3: half(x)}, 3),
        (lambda x: Pair(half(x), x), "logits"),
        (lambda x: Pair(x, half(x)), 1),
    ]
    for model, output in cases:
        np.testing.assert_allclose(predicted(model, output=output), IMAGE * 0.5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "output", "said"),
    [
        (lambda x: (x, x), None, r"a tuple of 2; say which is the prediction, output=0 for example \(there are 0, 1\)"),
        (lambda x: {"a": x, "b": x}, None, r"a dict of 'a', 'b'; say which .* output='a'"),
        (lambda x: {"a": x}, "c", r"none of it is output='c'"),
        (lambda x: (x, x), 2, r"none of it is output=2"),
        (lambda x: (x, x), True, r"none of it is output=True"),
        (lambda x: (x, x), "a", r"none of it is output='a'"),
        (lambda _: (), None, "nothing to predict"),
        (lambda x: x, 0, "output=0 picks one of several outputs, and the model gives one"),
        (lambda _: None, None, "the model gave NoneType, wanted an array"),
        (lambda _: "text", None, "wanted an array"),
        (lambda x: x * 1j, None, "complex64, wanted an array or a tensor of real numbers"),
        (lambda x: x.repeat(2, 2).repeat(2, 3), None, "Its pixels are 32x32 for patches of 16x16: say scale=2"),
        (lambda x: x[:, :, 2:-2, 2:-2], None, "Its pixels are 12x12 for patches of 16x16: say margin=2"),
        (lambda x: x[:, :, 2:-2, 1:], None, "Its pixels are 12x15 .* pad its convolutions or resample its output"),
        (
            lambda x: x[:1],
            None,
            r"shape \(1, 1, 16, 16\) for a batch of .*, wanted \(16, 16, 16\), or \(16, C, 16, 16\)",
        ),
    ],
)
def test_outputs_that_mean_no_slice_are_refused(model: Callable[[Any], Any], output: Any, said: str) -> None:
    with pytest.raises(ReassemblyError, match=said):
        predicted(model, output=output)


def test_the_output_is_on_record(tmp_path: Path, prepared: Prepared) -> None:
    build_one(prepared)
    ps = ctpatch.open(prepared.out)

    def two(batch: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        return {"half": batch * np.float32(0.5), "same": batch}

    folder = ctpatch.predict(two, ps, EVEN, out=tmp_path / "out", output="half", model_id="two")
    assert json.loads((folder / "predict_meta.json").read_bytes())["options"]["output"] == "half"
    np.testing.assert_allclose(np.load(folder / "train_000001.npy"), prepared.images["image"][1] * 0.5, atol=1e-6)
    with pytest.raises(OutputConflictError, match='output was "half", now "same"'):
        ctpatch.predict(two, ps, EVEN, out=tmp_path / "out", output="same", model_id="two")


@pytest.mark.parametrize("size", [0, -1, True, 1.5])
def test_a_batch_of_no_patches_is_refused(size: Any) -> None:
    with pytest.raises(ConfigError, match="batch_size: must be a whole number, 1 or more"):
        predicted(lambda batch: batch, batch_size=size)


@pytest.mark.parametrize("mode", ["none", "shift", "even"])
@pytest.mark.parametrize("shape", [(9, 40), (40, 9), (3, 3)])
def test_a_slice_smaller_than_a_patch_is_refused(mode: Any, shape: tuple[int, int]) -> None:
    cfg = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode=mode)
    with pytest.raises(UsageError, match=rf"{shape[0]}x{shape[1]} pixels are less than a patch of 16x16.*'reflect'"):
        predicted(lambda batch: batch, np.zeros(shape, np.float32), cfg=cfg)


@pytest.mark.parametrize("mode", ["zero", "edge", "reflect", None])
@pytest.mark.parametrize("shape", [(9, 40), (40, 9), (1, 1)])
def test_a_slice_smaller_than_a_patch_is_padded(mode: Any, shape: tuple[int, int]) -> None:
    cfg = None if mode is None else ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode=mode)
    image = IMAGE[:9, :40] if shape == (9, 40) else IMAGE[: shape[0], : shape[1]]
    np.testing.assert_allclose(predicted(lambda batch: batch * 0.5, image, cfg=cfg), image * 0.5, atol=1e-6)


def test_slices_of_a_set_without_a_window_are_named_before_anything_is_written(tmp_path: Path) -> None:
    made = make_split(tmp_path, [(40, 50), (16, 16), (9, 9)])
    build_one(made)
    ps, out, heard = ctpatch.open(made.out), tmp_path / "out", Heard()
    large = ctpatch.PatchConfig(patch_size=32, stride=16, pad_mode="even")
    with pytest.raises(
        UsageError, match=r"slice 1 \(.*train_000001.npy\): 16x16 pixels are less than a patch of 32x32"
    ):
        ctpatch.predict(lambda batch: batch, ps, large, out=out)
    assert not out.exists()
    padded = ctpatch.PatchConfig(patch_size=32, stride=16, pad_mode="reflect")
    folder = ctpatch.predict(lambda batch: batch, ps, padded, out=out)
    for number, image in enumerate(made.images["image"]):
        np.testing.assert_allclose(np.load(folder / f"train_00000{number}.npy"), image, atol=1e-6)
    ctpatch.predict(lambda batch: batch, ps, out=tmp_path / "usual", listener=heard)
    (said,) = (event.message for event in heard.events if isinstance(event, Notice) and event.code == "small-slices")
    assert said.startswith("1 slices are smaller than a patch and get no prediction, the first is prepared/phantoms/")


def test_a_set_refuses_patches_of_another_size(prepared: Prepared) -> None:
    build_one(prepared, EVEN)
    ps = ctpatch.open(prepared.out)
    rows = np.flatnonzero(ps.manifest["slice_index"].to_numpy() == 1)
    own, image = ps.read(rows), prepared.images["image"][1]
    np.testing.assert_allclose(ps.reassemble(1, own[:, None]), image, atol=1e-6)
    for other, seen in (
        (own[:, 2:-2, 2:-2], "12x12"),
        (own.repeat(2, 1).repeat(2, 2), "32x32"),
        (own[:, :, 1:], "16x15"),
        (np.concatenate([own, own], axis=2)[:, None], "16x32"),
    ):
        with pytest.raises(
            ReassemblyError, match=f"slice 1: the patches are {seen} pixels, those of the set are 16x16"
        ):
            ps.reassemble(1, other)
    found = ps.reassemble(1, np.stack([own, own * 2], axis=1))
    np.testing.assert_allclose(found, [image, image * 2], atol=1e-6)


def test_a_mask_is_put_together_as_it_was(tmp_path: Path) -> None:
    made = make_split(tmp_path, arrays={"mask": np.uint8})
    build_one(made)  # 48 of 50 columns lie in a window
    ps = ctpatch.open(made.out)
    with pytest.raises(ReassemblyError, match="no patch covers 80 of its pixels, and labels"):
        ps.reassemble(0, array="mask")
    found = ps.reassemble(0, array="mask", fill=9)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found[:, :48], made.images["mask"][0][:, :48])
    assert (found[:, 48:] == 9).all()


class TestTorch:
    @pytest.fixture(autouse=True)
    def _torch(self) -> None:
        pytest.importorskip("torch", reason="torch is not installed: pip install torch")

    def network(self) -> Any:
        import torch

        net: Any = torch.nn.Conv2d(1, 1, 3, padding=1)
        with torch.no_grad():
            net.weight.zero_()
            net.weight[0, 0, 1, 1] = 0.25
            net.bias.fill_(0.5)
        return net

    @pytest.mark.parametrize(
        ("dtype", "atol"), [("float32", 1e-6), ("float64", 1e-9), ("half", 1e-3), ("bfloat16", 8e-3)]
    )
    def test_a_model_of_any_float(self, dtype: str, atol: float) -> None:
        import torch

        found = predicted(self.network().to(getattr(torch, dtype)))
        assert found.dtype == (np.float64 if dtype == "float64" else np.float32)
        np.testing.assert_allclose(found, IMAGE * np.float64(0.25) + 0.5, atol=atol)

    def test_long_outputs_are_labels(self) -> None:
        import torch

        class Classes(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                place = torch.linspace(0, 0.5, x.shape[-1], dtype=torch.float64)
                return torch.cat([0.8 - x - place, x * 0 - 9, x + place - 0.8], 1).argmax(1)

        found = predicted(Classes())
        assert found.dtype == np.int64
        np.testing.assert_array_equal(found, predicted(by_place))

    def test_every_layer_keeps_the_mode_it_had(self) -> None:
        import torch

        seen: list[bool] = []

        class Frozen(torch.nn.BatchNorm2d):
            def forward(self, x: Any) -> Any:
                seen.append(self.training)
                return super().forward(x)

        model = torch.nn.Sequential(Frozen(1), torch.nn.Sequential(torch.nn.Dropout(0.9), self.network()), Frozen(1))
        model.train()
        model[0].eval()
        model[1].training = False  # but not the layers in it
        modes = [layer.training for layer in model.modules()]
        assert modes == [True, False, False, True, True, True]
        found = predicted(model)
        assert [layer.training for layer in model.modules()] == modes
        assert not any(seen)
        np.testing.assert_allclose(found, (IMAGE * 0.25 + 0.5), atol=1e-4)  # no dropout; statistics of 0 and 1
        assert model[2].num_batches_tracked == 0
        failing = torch.nn.Sequential(model, torch.nn.Conv2d(3, 1, 1))
        failing.eval()
        model[1].train()
        modes = [layer.training for layer in failing.modules()]
        with pytest.raises(
            UsageError, match=r"a tensor \(16, 1, 16, 16\) of torch.float32 on cpu and raised RuntimeError"
        ):
            predicted(failing)
        assert [layer.training for layer in failing.modules()] == modes

    def test_a_function_around_a_network(self) -> None:
        net = self.network()
        with pytest.raises(
            UsageError, match="cannot take a NumPy array; set as_tensor=True if it calls a torch network"
        ):
            predicted(lambda x: 1 * net(x))
        with pytest.raises(UsageError, match="as_tensor=True"):
            predicted(lambda x: x.unsqueeze(0))
        np.testing.assert_allclose(predicted(lambda x: 1 * net(x), as_tensor=True), IMAGE * 0.25 + 0.5, atol=1e-6)
        half = net.half()
        with pytest.raises(UsageError, match=r"torch.float32 on cpu and raised RuntimeError.*as x.half\(\)"):
            predicted(lambda x: 1 * half(x), as_tensor=True)
        with pytest.raises(UsageError, match="leave as_tensor out"):
            predicted(self.network(), as_tensor=False)

    def test_errors_of_the_models_own_are_passed_on(self) -> None:
        class OwnError(RuntimeError):
            pass

        def failing(_: Any) -> Any:
            raise OwnError

        for as_tensor in (True, False):
            with pytest.raises(OwnError):
                predicted(failing, as_tensor=as_tensor)

    def test_a_model_without_values_is_refused(self) -> None:
        with pytest.raises(ReassemblyError, match="the model's output: the tensor is on torch's device 'meta'"):
            predicted(self.network().to("meta"))

    def test_tensors_are_put_together(self) -> None:
        import torch

        patches, coords = ctpatch.extract_patches_2d(IMAGE, EVEN)
        tensor = torch.from_numpy(patches)
        exact: list[Any] = [
            tensor,
            tensor[:, None],
            tensor.clone().requires_grad_(),
            tensor.double(),
            tensor.to_sparse(),
            list(tensor.clone().requires_grad_()),
            tensor.transpose(1, 2).contiguous().transpose(1, 2),
        ]
        for each in exact:
            np.testing.assert_allclose(ctpatch.reassemble(each, coords, IMAGE.shape), IMAGE, atol=1e-6)
        for dtype, atol in ((torch.bfloat16, 4e-3), (torch.half, 5e-4)):
            found = ctpatch.reassemble(tensor.to(dtype), torch.tensor(coords), IMAGE.shape)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, IMAGE, atol=atol)
        labels = (tensor > 0.5).to(torch.uint8) * 3
        found = ctpatch.reassemble(labels, coords, IMAGE.shape)
        np.testing.assert_array_equal(found, (IMAGE > 0.5).astype(np.uint8) * 3)
        with pytest.raises(ReassemblyError, match="patches: the tensor is on torch's device 'meta'"):
            ctpatch.reassemble(tensor.to("meta"), coords, IMAGE.shape)
        with pytest.raises(ReassemblyError, match="complex64, wanted real numbers"):
            ctpatch.reassemble(tensor.to(torch.complex64), coords, IMAGE.shape)

    def test_tensors_in_a_reassembler_and_a_set(self, prepared: Prepared) -> None:
        import torch

        build_one(prepared, EVEN)
        ps = ctpatch.open(prepared.out)
        rows = np.flatnonzero(ps.manifest["slice_index"].to_numpy() == 1)
        own, image = torch.from_numpy(ps.read(rows)), prepared.images["image"][1]
        np.testing.assert_allclose(ps.reassemble(1, own[:, None].requires_grad_()), image, atol=1e-6)
        at = ps.manifest[rows].select("row", "col").to_numpy()
        whole = ctpatch.Reassembler(np.zeros(len(rows), int), at[:, 0], at[:, 1], {0: (40, 50)}, (16, 16))
        (done,) = whole.add(torch.arange(len(rows)), own.bfloat16().requires_grad_())
        np.testing.assert_allclose(done.image, image, atol=4e-3)
        np.testing.assert_allclose(predicted(lambda x: x, torch.from_numpy(image).requires_grad_()), image, atol=1e-6)
