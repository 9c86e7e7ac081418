"""Everything that can happen to a set, in random order, against a plain dictionary that says what must be so."""

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import ctpatch
from ctpatch.errors import CtPatchError, IncompleteError, OutputConflictError, SourceChangedError, UsageError
from ctpatch.events import Event, WorkAdvanced
from helpers import (
    LAYOUTS,
    assert_bits,
    assert_same_tree,
    make_split,
    random_image,
    reference_set,
    small_parts,
    tree_bytes,
)
from reliability.common import FULL

STRIDES = (8, 12)
SHAPE = (24, 28)


class KilledError(Exception):
    """Raised by a listener in the middle of a build."""


@pytest.fixture(autouse=True, scope="module")
def _small_parts() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        small_parts(patch, slices=1, shard_bytes=2)
        patch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        yield


def killed_after(parts: int) -> Any:
    left = parts

    def listener(event: Event) -> None:
        nonlocal left
        if isinstance(event, WorkAdvanced):
            left -= 1
            if left == 0:
                raise KilledError

    return listener


class OneSet(RuleBasedStateMachine):
    """One split, its set, and a set converted from it.

    The model: `state` is absent, incomplete or complete; `layout` and `stride` are those of what is there or begun;
    `made` are the pixels it was made from, of the first `cut` slices (those of an unfinished build that no part has cut
    yet may change without harm); `rotten` is whether a byte of it was changed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.home = Path(tempfile.mkdtemp(prefix="ctpatch-machine-"))
        self.prepared = make_split(self.home, [SHAPE] * 3)
        self.rng = np.random.default_rng(12345)
        self.model: dict[str, Any] = {"state": "absent", "rotten": False, "cut": 0}

    def teardown(self) -> None:
        shutil.rmtree(self.home, ignore_errors=True)

    @property
    def images(self) -> list[Any]:
        return self.prepared.images["image"]

    @initialize(layout=st.sampled_from(LAYOUTS))
    def first(self, layout: Any) -> None:
        self.model["layout"], self.model["stride"], self.model["made"] = layout, 8, list(self.images)

    def run(self, layout: Any, stride: int, **options: Any) -> Any:
        config = ctpatch.PatchConfig(patch_size=16, stride=stride)
        return ctpatch.build(self.prepared.folder, config=config, layout=layout, **options)[0]

    def is_now(self, state: str, layout: Any, stride: int, cut: int = 3) -> None:
        self.model.update(state=state, layout=layout, stride=stride, rotten=False, cut=cut)
        self.model["made"] = list(self.images)

    def same_as_asked(self, layout: Any, stride: int) -> bool:
        pairs = list(zip(self.model["made"], self.images, strict=True))
        unchanged = all(a is b for a, b in pairs[: self.model["cut"]])
        return (layout, stride) == (self.model["layout"], self.model["stride"]) and unchanged

    @rule(number=st.integers(0, 2))
    def change_a_source(self, number: int) -> None:
        self.images[number] = random_image(self.rng, SHAPE)
        np.save(self.prepared.file(number), self.images[number])

    @precondition(lambda self: not self.model["rotten"])
    @rule(layout=st.sampled_from(LAYOUTS), stride=st.sampled_from(STRIDES))
    def build(self, layout: Any, stride: int) -> None:
        if self.model["state"] == "absent" or self.same_as_asked(layout, stride):
            outcome = self.run(layout, stride).outcome
            wanted = {"absent": {"built"}, "incomplete": {"resumed"}, "complete": {"complete"}}
            assert outcome in wanted[self.model["state"]]
            self.is_now("complete", layout, stride)
        else:
            with pytest.raises((OutputConflictError, SourceChangedError)):
                self.run(layout, stride)

    @precondition(lambda self: self.model["state"] != "absent" and not self.model["rotten"])
    @rule()
    def resume(self) -> None:
        self.build(self.model["layout"], self.model["stride"])

    @rule(layout=st.sampled_from(LAYOUTS), stride=st.sampled_from(STRIDES))
    def overwrite(self, layout: Any, stride: int) -> None:
        try:
            assert self.run(layout, stride, overwrite=True).outcome == "built"
        except OutputConflictError:
            # Which files are ours is told by the meta and the manifest: where these are damaged, nothing is removed.
            assert self.model["rotten"] in {"patch_meta.json", "patch_manifest.csv"}
            shutil.rmtree(self.prepared.out)
            self.run(layout, stride)
        self.is_now("complete", layout, stride)

    @rule(
        layout=st.sampled_from(LAYOUTS),
        stride=st.sampled_from(STRIDES),
        parts=st.integers(1, 3),
        overwrite=st.booleans(),
    )
    def kill(self, layout: Any, stride: int, parts: int, overwrite: bool) -> None:
        if self.model["rotten"] or (
            not overwrite
            and (self.model["state"] == "complete" or self.model["state"] == "incomplete")
            and not self.same_as_asked(layout, stride)
        ):
            return
        if self.model["state"] == "complete" and not overwrite:
            assert self.run(layout, stride, listener=killed_after(parts)).outcome == "complete"
            return
        before = 0 if overwrite or self.model["state"] == "absent" else self.model["cut"]
        with pytest.raises(KilledError):
            self.run(layout, stride, overwrite=overwrite, listener=killed_after(parts))
        self.is_now("incomplete", layout, stride, max(before, parts))

    @precondition(lambda self: self.model["state"] == "complete" and not self.model["rotten"])
    @rule(seed=st.integers(0, 10**6))
    def corrupt(self, seed: int) -> None:
        rng = random.Random(seed)
        names = sorted(name for name in tree_bytes(self.prepared.out) if not name.endswith("/"))
        path = self.prepared.out / rng.choice(names)
        content = bytearray(path.read_bytes())
        at = rng.randrange(len(content))
        span = content.find(b'"created": "') + 12
        if path.name == "patch_meta.json" and span <= at < span + 20:
            return
        content[at] ^= 1 << rng.randrange(8)
        path.write_bytes(content)
        self.model["rotten"] = path.name

    @precondition(lambda self: self.model["state"] == "complete")
    @rule(layout=st.sampled_from(LAYOUTS))
    def convert(self, layout: Any) -> None:
        out = self.home / "converted"
        if self.model["rotten"]:
            return
        needs_sources = self.model["layout"] == "index" or (layout in {"slices", "index"} != {self.model["layout"]})
        unchanged = all(a is b for a, b in zip(self.model["made"], self.images, strict=True))
        try:
            ctpatch.convert(self.prepared.out, out, layout=layout)
        except CtPatchError:
            assert needs_sources or layout in {"slices", "index"}
            assert not unchanged
        else:
            wanted = reference_set(self.model["made"], 16, self.model["stride"])[1]
            if layout != "index" or unchanged:
                assert_bits(ctpatch.open(out, self.home).read(range(len(wanted))), wanted)
        shutil.rmtree(out, ignore_errors=True)

    @precondition(lambda self: self.model["state"] == "complete" and not self.model["rotten"])
    @rule()
    def same_bytes_as_an_undisturbed_build(self) -> None:
        if not all(a is b for a, b in zip(self.model["made"], self.images, strict=True)):
            return
        fresh = self.home / "fresh"
        self.run(self.model["layout"], self.model["stride"], out=fresh)
        there, wanted = tree_bytes(self.prepared.out), tree_bytes(fresh)
        shutil.rmtree(fresh)
        pixels = {name for name in wanted if name.endswith((".npy", "/", "slice_manifest.csv"))}
        assert set(there) == set(wanted)
        assert_same_tree({name: there[name] for name in pixels}, {name: wanted[name] for name in pixels})

    @invariant()
    def verify_and_open_say_what_is_so(self) -> None:
        if "layout" not in self.model:
            return
        out = self.prepared.out
        if self.model["state"] == "absent":
            with pytest.raises(UsageError):
                ctpatch.verify(out)
            return
        if self.model["state"] == "incomplete":
            assert ctpatch.verify(out).status == "incomplete"
            with pytest.raises(IncompleteError):
                ctpatch.open(out)
            return
        unchanged = all(a is b for a, b in zip(self.model["made"], self.images, strict=True))
        good = not self.model["rotten"] and (unchanged or self.model["layout"] != "index")
        assert ctpatch.verify(out).ok is good
        if self.model["rotten"]:
            return
        assert ctpatch.verify(out, deep=True).ok is unchanged
        assert not (out / ".ctpatch").exists()
        where, wanted = reference_set(self.model["made"], 16, self.model["stride"])
        ps = ctpatch.open(out)
        assert len(ps) == len(where)
        if good:
            assert_bits(ps.read(range(len(ps))), wanted)


OneSet.TestCase.settings = settings(
    max_examples=40 if FULL else 8,
    stateful_step_count=40 if FULL else 15,
    deadline=None,
    derandomize=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # shrinking builds takes minutes
    suppress_health_check=list(HealthCheck),
)
TestOneSet = OneSet.TestCase
