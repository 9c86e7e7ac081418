"""Torch models on a device, in mixed precision, on turned patches; the path of a device is held against NumPy's."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ctpatch
from ctpatch.errors import ReassemblyError, UsageError
from helpers import Prepared, build_one, make_split

torch = pytest.importorskip("torch", reason="torch is not installed: pip install torch")

EVEN = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode="even")
IMAGE = np.random.default_rng(0).random((40, 50), dtype=np.float32)
APART = "ctpatch.predicting.torch_side.works_apart"


class Net(torch.nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
    """A valid convolution to three channels, a pointwise one, and class numbers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.wide = torch.nn.Conv2d(1, 3, 3)
        self.out = torch.nn.Conv2d(3, 1, 1)

    def forward(self, x: Any) -> dict[str, Any]:
        scores = self.wide(x)
        return {"image": self.out(scores), "scores": scores, "labels": scores.argmax(1).to(torch.uint8)}


def predicted(model: Any, image: Any = IMAGE, **options: Any) -> Any:
    return ctpatch.predict(model, image, EVEN, **{"margin": 1, "output": "all", "batch_size": 7, **options})


def at_once(net: Any) -> dict[str, Any]:
    """What the network gives for the padded slice, in one piece."""
    with torch.no_grad():
        found = net(torch.from_numpy(np.pad(IMAGE, 1, mode="reflect"))[None, None])
    return {"image": found["image"][0, 0].numpy(), "scores": found["scores"][0].numpy(), "labels": found["labels"][0]}


@pytest.mark.parametrize("apart", [False, True])
def test_a_network_in_windows_is_the_network_at_once(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `apart`, slices are cut and put together as on a device that has memory of its own."""
    monkeypatch.setattr(APART, lambda _: apart)
    net = Net()
    wanted = at_once(net)
    found = predicted(net, argmax=False)
    np.testing.assert_allclose(found["image"], wanted["image"], atol=1e-5)
    np.testing.assert_allclose(found["scores"], wanted["scores"], atol=1e-5)
    clear = np.diff(np.sort(wanted["scores"], 0), axis=0)[-1] > 1e-4
    np.testing.assert_array_equal(found["labels"][clear], np.asarray(wanted["labels"])[clear])
    assert found["labels"].dtype == np.uint8
    classes = predicted(net, argmax=["scores"])["scores"]
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes[clear], wanted["scores"].argmax(0)[clear])


@pytest.mark.parametrize("options", [{}, {"tta": "flips"}, {"window": "uniform", "batch_size": 1}])
def test_the_path_of_a_device_gives_what_numpy_gives(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net()
    wanted = predicted(net, **options)
    monkeypatch.setattr(APART, lambda _: True)
    found = predicted(net, **options)
    for name in ("image", "scores"):
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=1e-6)
        assert found[name].dtype == wanted[name].dtype
    np.testing.assert_array_equal(found["labels"], wanted["labels"])


def test_a_set_on_a_device(prepared: Prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_one(prepared)
    ps, net = ctpatch.open(prepared.out), Net()
    here = predicted(net, ps, out=tmp_path / "here", clip=False)
    monkeypatch.setattr(APART, lambda _: True)
    there = predicted(net, ps, out=tmp_path / "there", clip=False)
    names = sorted(path.name for path in here.glob("*.npy"))
    assert len(names) == 3 * 5
    for name in names:
        np.testing.assert_allclose(np.load(there / name), np.load(here / name), rtol=0, atol=1e-6)


def test_a_slice_that_cannot_be_written_to_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that is mapped from a file: torch warns of it, and warnings are errors in the tests."""
    monkeypatch.setattr(APART, lambda _: True)
    np.save(tmp_path / "slice.npy", IMAGE)
    mapped = np.load(tmp_path / "slice.npy", mmap_mode="r")
    net = torch.nn.Conv2d(1, 1, 1)
    np.testing.assert_array_equal(ctpatch.predict(net, mapped, EVEN), ctpatch.predict(net, IMAGE, EVEN))


def test_flips_are_the_mean_over_the_turned_slices() -> None:
    image = np.ascontiguousarray(IMAGE[:16, :16])
    net = torch.nn.Conv2d(1, 2, 3, padding=1)
    found = ctpatch.predict(net, image, EVEN, tta="flips")
    wanted = np.zeros((2, 16, 16))
    with torch.no_grad():
        for flip in (False, True):
            for k in range(4):
                turned = np.rot90(image[:, ::-1] if flip else image, k).copy()
                back = np.rot90(net(torch.from_numpy(turned)[None, None])[0].numpy(), -k, (1, 2))
                wanted += back[:, :, ::-1] if flip else back
    np.testing.assert_allclose(found, wanted / 8, atol=1e-6)


def test_a_device_that_is_none_or_not_the_models_is_refused() -> None:
    net = Net()
    for device in ("cpu", "cpu:0", torch.device("cpu")):
        np.testing.assert_array_equal(predicted(net, device=device)["image"], predicted(net)["image"])
    with pytest.raises(UsageError, match=r"device: 'gpu' is no device of torch .* give 'cpu', 'cuda' or 'mps'"):
        predicted(net, device="gpu")
    with pytest.raises(UsageError, match=r"the model is on 'meta' and device is 'cpu'; .* call model.to\('cpu'\)"):
        predicted(Net().to("meta"), device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="device: torch sees no cuda device on this machine"):
            predicted(net, device="cuda")
    with pytest.raises(UsageError, match="amp: must be True, False, 'float16' or 'bfloat16', got 'int8'"):
        predicted(net, amp="int8")


def test_batches_of_a_function_are_moved() -> None:
    seen: set[str] = set()

    def function(batch: Any) -> Any:
        seen.add(str(batch.device))
        return torch.zeros(batch.shape)

    with pytest.raises(ReassemblyError, match="the tensor is on torch's device 'meta'"):
        ctpatch.predict(lambda batch: batch, IMAGE, EVEN, as_tensor=True, device="meta")
    ctpatch.predict(function, IMAGE, EVEN, as_tensor=True, device="meta")
    assert seen == {"meta"}


@pytest.mark.parametrize("amp", [True, "bfloat16", torch.bfloat16])
def test_mixed_precision_is_torchs_own(amp: Any) -> None:
    seen: set[Any] = set()
    net = torch.nn.Conv2d(1, 1, 3, padding=1)
    net.register_forward_hook(lambda _module, _args, output: seen.add(output.dtype))
    found = ctpatch.predict(net, IMAGE, EVEN, amp=amp)
    assert seen == {torch.bfloat16}  # the dtype that torch takes on a CPU
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, ctpatch.predict(net, IMAGE, EVEN), atol=2e-2)
    assert net.weight.dtype == torch.float32


def test_device_and_amp_are_on_record(tmp_path: Path) -> None:
    made = make_split(tmp_path, [(16, 16)])
    build_one(made)
    ps, net = ctpatch.open(made.out), Net()
    predicted(net, ps, out=tmp_path / "out", device=torch.device("cpu"), amp=torch.bfloat16)
    with pytest.raises(ctpatch.CtPatchError, match='amp was "bfloat16", now true; device was "cpu", now null'):
        predicted(net, ps, out=tmp_path / "out", amp=True)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
@pytest.mark.parametrize("options", [{}, {"tta": "flips"}, {"argmax": ["scores"]}])
def test_cuda_gives_what_the_cpu_gives(options: dict[str, Any]) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    wanted = predicted(Net(), **options)
    net = Net().cuda()
    for device in (None, "cuda"):
        found = predicted(net, device=device, **options)
        np.testing.assert_allclose(found["image"], wanted["image"], rtol=0, atol=1e-6)
        if not options.get("argmax"):
            np.testing.assert_allclose(found["scores"], wanted["scores"], rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="the model is on 'cuda:0' and device is 'cpu'"):
        predicted(net, device="cpu")
