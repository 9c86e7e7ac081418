"""Models of other shapes than their input: channels, scale, margin, class scores, several outputs of one slice."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

import ctpatch
from ctpatch.errors import ConfigError, ReassemblyError, UsageError
from ctpatch.predicting.model import Caller
from ctpatch.predicting.options import Asked
from ctpatch.predicting.shown import Shown
from ctpatch.predicting.sliding import slid
from ctpatch.predicting.windows import Windows
from helpers import PAD_MODES

EVEN = ctpatch.PatchConfig(patch_size=16, stride=8, pad_mode="even")
IMAGE = np.random.default_rng(0).random((40, 50), dtype=np.float32)
Floats = NDArray[np.float32]


class Pair(NamedTuple):
    logits: Any
    aux: Any


def valid_filter(margin: int, seed: int = 0) -> Callable[[Floats], Floats]:
    """A convolution without padding, of a random kernel, over the last two axes."""
    side = 2 * margin + 1
    kernel = np.random.default_rng(seed).random((side, side))
    kernel /= kernel.sum()

    def model(batch: Floats) -> Floats:
        around = sliding_window_view(batch, (side, side), (-2, -1))
        return np.asarray(np.einsum("...hwyx,yx->...hw", around, kernel), np.float32)

    return model


def enlarged(values: Floats, scale: int) -> Floats:
    return values.repeat(scale, -2).repeat(scale, -1)


def scores_of(batch: Floats) -> Floats:
    """Scores of three classes, which differ with the place in the patch."""
    place = np.linspace(0, 0.2, batch.shape[-1], dtype=np.float32)
    return np.concatenate([0.5 - batch - place, batch * 0 + np.float32(0.1), batch + place - 0.6], 1)


@settings(deadline=None, max_examples=60)
@given(
    st.tuples(st.integers(1, 24), st.integers(1, 24)),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from(["reflect", "even", "shift", "edge", "zero"]),
    st.integers(1, 7),
)
def test_a_margin_gives_what_the_model_gives_for_the_padded_slice_at_once(
    shape: tuple[int, int],
    inner: tuple[int, int],
    stride: tuple[int, int],
    margin: int,
    scale: int,
    mode: Any,
    batch_size: int,
) -> None:
    image = np.random.default_rng(1).random(shape, dtype=np.float32)
    size = inner[0] + 2 * margin, inner[1] + 2 * margin
    cfg = ctpatch.PatchConfig(patch_size=size, stride=stride, pad_mode=mode)
    filtered = valid_filter(margin)

    def model(batch: Floats) -> Floats:
        assert batch.shape[1:] == (1, *size)
        return enlarged(filtered(batch), scale)

    options: dict[str, Any] = {"scale": scale, "margin": margin, "batch_size": batch_size}
    if mode in {"even", "shift"} and (shape[0] < inner[0] or shape[1] < inner[1]):
        with pytest.raises(UsageError, match="pixels are less than what a patch gives without its margin"):
            ctpatch.predict(model, image, cfg, **options)
        return
    found = ctpatch.predict(model, image, cfg, **options)
    padding: Any = {"edge": "edge", "zero": "constant"}.get(mode, "reflect")
    wanted = enlarged(filtered(np.pad(image, margin, mode=padding)), scale)
    assert found.shape == (shape[0] * scale, shape[1] * scale)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_without_cfg_a_margin_covers_the_slice_too() -> None:
    margin = 40  # windows of 128 cover 48 pixels, less than the stride of 64
    image = np.random.default_rng(2).random((130, 101), dtype=np.float32)

    def model(batch: Floats) -> Floats:
        return batch[:, :, margin:-margin, margin:-margin] * np.float32(0.5)

    np.testing.assert_allclose(ctpatch.predict(model, image, margin=margin), image * 0.5, atol=1e-6)


def test_holes_are_refused_before_the_model_is_asked() -> None:
    def model(_: Floats) -> Floats:
        raise AssertionError

    cfg = ctpatch.PatchConfig(patch_size=16, stride=9, pad_mode="none")
    with pytest.raises(UsageError, match=r"the slice: \d+ pixels are in no window of pad_mode 'none', less the margin"):
        ctpatch.predict(model, IMAGE, cfg, margin=3)
    found = ctpatch.predict(valid_filter(3), IMAGE, cfg, margin=3, fill=-1)
    assert (found == -1).any()


@pytest.mark.parametrize("mode", PAD_MODES)
@pytest.mark.parametrize("window", ["hann", "uniform"])
def test_channels_are_put_together_each_by_itself(mode: Any, window: Any) -> None:
    cfg = ctpatch.PatchConfig(patch_size=(16, 12), stride=(7, 9), pad_mode=mode)

    def model(batch: Floats) -> Floats:
        place = np.linspace(0, 1, 12, dtype=np.float32)
        return np.concatenate([batch, batch * place, batch * batch], axis=1)

    found = ctpatch.predict(model, IMAGE, cfg, 5, window)
    assert found.shape == (3, *IMAGE.shape)
    assert found.dtype == np.float32
    outputs = ctpatch.predict(lambda batch: list(model(batch).swapaxes(0, 1)), IMAGE, cfg, 5, window, output="all")
    for channel in range(3):
        np.testing.assert_array_equal(found[channel], outputs[channel])
    np.testing.assert_array_equal(found[0], ctpatch.predict(lambda batch: batch, IMAGE, cfg, 5, window))


@pytest.mark.parametrize("scale", [2, 3])
def test_a_scale_makes_the_slice_so_many_times_as_large(scale: int) -> None:
    found = ctpatch.predict(lambda batch: enlarged(batch, scale) * np.float32(0.5), IMAGE, EVEN, scale=scale)
    assert found.shape == (40 * scale, 50 * scale)
    np.testing.assert_allclose(found, enlarged(IMAGE, scale) * 0.5, atol=1e-6)


def test_a_scale_that_is_not_said_is_refused_with_the_one_that_would_fit() -> None:
    with pytest.raises(ReassemblyError, match="32x32 for patches of 16x16: say scale=2 if each pixel became 2x2"):
        ctpatch.predict(lambda batch: enlarged(batch, 2), IMAGE, EVEN)
    with pytest.raises(ReassemblyError, match=r"wanted \(16, 48, 48\), or \(16, C, 48, 48\) with C channels"):
        ctpatch.predict(lambda batch: enlarged(batch, 2), IMAGE, EVEN, scale=3)
    with pytest.raises(ReassemblyError, match="12x12 for patches of 16x16: say margin=2"):
        ctpatch.predict(valid_filter(2), IMAGE, EVEN, margin=1)


@pytest.mark.parametrize("window", ["hann", "gaussian", "uniform"])
def test_scores_are_averaged_before_a_class_is_chosen(window: Any) -> None:
    found = ctpatch.predict(scores_of, IMAGE, EVEN, 5, window, argmax=True)
    means = ctpatch.predict(scores_of, IMAGE, EVEN, 5, window)
    assert found.dtype == np.uint8
    assert found.shape == IMAGE.shape
    assert set(np.unique(found)) == {0, 1, 2}
    ranked = np.sort(means, axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-6
    np.testing.assert_array_equal(found[clear], means.argmax(0)[clear])
    voted = ctpatch.predict(lambda batch: scores_of(batch).argmax(1), IMAGE, EVEN, 5, window)
    assert (voted != found).any()  # the mean of scores is not the vote of classes


def test_channels_at_the_end_are_named() -> None:
    with pytest.raises(ReassemblyError, match=r"shape \(16, 16, 16, 3\) .* Channels come before rows and columns"):
        ctpatch.predict(lambda batch: scores_of(batch).transpose(0, 2, 3, 1), IMAGE, EVEN)


def test_every_option_is_a_parameter_that_help_describes() -> None:
    signature = inspect.signature(ctpatch.predict)
    positional = [name for name, each in signature.parameters.items() if each.kind is each.POSITIONAL_OR_KEYWORD]
    assert positional == ["model_fn", "image", "cfg", "batch_size", "window"]
    others = (
        "fill as_tensor output scale margin argmax tta device amp context context_edge context_gap "
        "normalize hu map_back out dataset clip model_id overwrite listener"
    )
    assert [*positional, *others.split()] == list(signature.parameters)
    assert [name for name in signature.parameters if f"\n    {name}: " not in str(ctpatch.predict.__doc__)] == []
    with pytest.raises(TypeError, match=r"predict.*: got an unexpected keyword argument 'scales'"):
        ctpatch.predict(scores_of, IMAGE, scales=2)  # type: ignore[call-overload]


def test_argmax_needs_scores() -> None:
    with pytest.raises(ReassemblyError, match=r"argmax: the model's output has shape .*, one channel; wanted a score"):
        ctpatch.predict(lambda batch: batch, IMAGE, EVEN, argmax=True)
    with pytest.raises(ConfigError, match=r"argmax: must be True, False, 'all' or a list of outputs, got 'logits'"):
        ctpatch.predict(lambda batch: batch, IMAGE, EVEN, argmax="logits")  # type: ignore[call-overload]
    with pytest.raises(ReassemblyError, match=r"argmax: 'b' is none of the outputs that are put together \('a'\)"):
        ctpatch.predict(lambda batch: {"a": scores_of(batch)}, IMAGE, EVEN, output="all", argmax=["a", "b"])
    with pytest.raises(ReassemblyError, match="no patch covers 80 of its pixels, and labels"):
        ctpatch.predict(scores_of, IMAGE, ctpatch.PatchConfig(patch_size=16, stride=8), argmax=True)


def test_several_outputs_come_together_by_what_they_are_called() -> None:
    def parts(batch: Floats) -> tuple[Floats, Floats]:
        return batch * np.float32(0.5), scores_of(batch)

    half = ctpatch.predict(lambda batch: parts(batch)[0], IMAGE, EVEN)
    scores = ctpatch.predict(lambda batch: parts(batch)[1], IMAGE, EVEN)
    classes = ctpatch.predict(lambda batch: parts(batch)[1], IMAGE, EVEN, argmax=True)
    cases: list[tuple[Callable[[Floats], Any], Any, list[Any]]] = [
        (parts, "all", [0, 1]),
        (lambda batch: list(parts(batch)), [0, -1], [0, -1]),
        (lambda batch: dict(zip("ab", parts(batch), strict=True)), "all", ["a", "b"]),
        (lambda batch: dict(zip("abc", (*parts(batch), "text"), strict=True)), ("a", "b"), ["a", "b"]),
        (lambda batch: Pair(*parts(batch)), "all", ["logits", "aux"]),
    ]
    for model, output, names in cases:
        found = ctpatch.predict(model, IMAGE, EVEN, 5, output=output)
        assert list(found) == names
        np.testing.assert_array_equal(found[names[0]], half)
        np.testing.assert_array_equal(found[names[1]], scores)
        found = ctpatch.predict(model, IMAGE, EVEN, 5, output=output, argmax=[names[1]])
        np.testing.assert_array_equal(found[names[0]], half)
        np.testing.assert_array_equal(found[names[1]], classes)


@pytest.mark.parametrize(
    ("model", "output", "said"),
    [
        (lambda x: x, "all", "output='all' picks one of several outputs, and the model gives one"),
        (lambda x: {"all": x, "a": x}, "all", r"calls one of its outputs so .*output=\['all'\] for it alone"),
        (lambda _: {}, "all", "the model gave an empty dict"),
        (lambda x: {"a": x}, ["a", "b"], "none of it is output='b'"),
        (lambda x: {"a": x, "b": x[..., 1:]}, "all", r"as its output 'b', wanted \(16, 16, 16\)"),
        (lambda x: {"a": x, "b": "text"}, "all", "wanted an array or a tensor"),
    ],
)
def test_outputs_that_do_not_fit_are_named(model: Any, output: Any, said: str) -> None:
    with pytest.raises(ReassemblyError, match=said):
        ctpatch.predict(model, IMAGE, EVEN, output=output)


@pytest.mark.parametrize("output", [[], [True], ["a", "a"], [None]])
def test_lists_that_name_no_outputs_are_refused(output: Any) -> None:
    with pytest.raises(ConfigError, match="output: "):
        ctpatch.predict(lambda x: {"a": x}, IMAGE, EVEN, output=output)


def test_other_channels_in_a_later_batch_are_refused() -> None:
    calls: list[int] = []

    def model(batch: Floats) -> Floats:
        calls.append(1)
        return batch.repeat(1 + len(calls), axis=1)

    with pytest.raises(ReassemblyError, match="the model gave 2 channels for one batch and 3 for another"):
        ctpatch.predict(model, IMAGE, EVEN, 4)


def test_flips_average_what_the_model_gives_for_turned_patches() -> None:
    """The mean over all symmetries of a slice, where a patch is the whole slice."""
    image = np.random.default_rng(3).random((12, 12), dtype=np.float32)
    cfg = ctpatch.PatchConfig(patch_size=12, stride=12)
    place = np.random.default_rng(4).random((12, 12), dtype=np.float32)

    def model(batch: Floats) -> Floats:
        batch *= place  # a model may write into its input
        return batch

    found = ctpatch.predict(model, image, cfg, tta="flips")
    wanted = np.zeros((12, 12))
    for k in range(4):
        wanted += np.rot90(np.rot90(image, k) * place, -k)
        wanted += np.rot90((np.rot90(image, k)[:, ::-1] * place)[:, ::-1], -k)
    np.testing.assert_allclose(found, wanted / 8, atol=1e-6)


def test_flips_with_everything_else() -> None:
    cfg = ctpatch.PatchConfig(patch_size=(12, 10), stride=5, pad_mode="even")
    shapes: set[tuple[int, ...]] = set()

    def model(batch: Floats) -> dict[str, Any]:
        shapes.add(batch.shape[1:])
        inner = enlarged(batch[..., 1:-1, 1:-1], 2)
        return {"two": np.concatenate([inner, 1 - inner], 1), "labels": (inner[:, 0] > 0.5).astype(np.uint8)}

    found = ctpatch.predict(model, IMAGE, cfg, tta="flips", scale=2, margin=1, output="all")
    np.testing.assert_allclose(found["two"][1], 1 - enlarged(IMAGE, 2), atol=1e-6)
    np.testing.assert_array_equal(found["labels"], enlarged(IMAGE, 2) > 0.5)
    assert found["labels"].dtype == np.uint8
    assert shapes == {(1, 12, 10)}
    with pytest.raises(ConfigError, match="tta: must be 'flips' or None, got 'rotations'"):
        ctpatch.predict(model, IMAGE, cfg, tta="rotations")  # type: ignore[call-overload]


def test_device_and_amp_are_for_torch() -> None:
    options: list[dict[str, Any]] = [{"device": "cpu"}, {"amp": True}]
    for given_options in options:
        with pytest.raises(UsageError, match=f"{next(iter(given_options))}: the model is given NumPy arrays"):
            ctpatch.predict(lambda batch: batch, IMAGE, EVEN, **given_options)


@pytest.mark.parametrize("margin", [0, 2])
def test_the_loop_takes_slices_of_several_channels(margin: int) -> None:
    """What neighbouring slices, or several windows of HU, will be given as."""
    stack = np.random.default_rng(5).random((3, 21, 30), dtype=np.float32)

    def model(batch: Floats) -> Floats:
        assert batch.shape[1:] == (3, 12, 12)
        inner = batch[..., margin : 12 - margin, margin : 12 - margin]
        return np.asarray(inner[:, 0] + 2 * inner[:, 1] + 3 * inner[:, 2])

    cfg = ctpatch.PatchConfig(patch_size=12, stride=5, pad_mode="reflect")
    asked = Asked(model, stack, margin=margin, batch_size=4)
    windows = Windows(cfg, margin)
    grids = {index: windows.grid((21, 30)) for index in (4, 9)}
    done = dict(slid(grids, lambda index: stack * index, windows, Caller(asked), asked, Shown(asked, None)))
    for index in (4, 9):
        wanted = index * (stack[0] + 2 * stack[1] + 3 * stack[2])
        np.testing.assert_allclose(done[index][None].image, wanted, rtol=1e-5)
