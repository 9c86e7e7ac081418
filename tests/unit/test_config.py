"""Options: what is taken, what is refused, and what the refusal says."""

import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctpatch.config import BuildConfig, PatchConfig, Rule, check_name, min_std_rule
from ctpatch.errors import ConfigError, RuleError
from helpers import refusal


def refused(**options: Any) -> str:
    return refusal(ConfigError, lambda: PatchConfig(**options))


def test_defaults_are_those_of_the_design() -> None:
    assert PatchConfig().options() == {
        "patch_size": (128, 128),
        "stride": (64, 64),
        "pad_mode": "none",
        "value_range": (0.0, 1.0),
        "air_level": 0.02,
        "drop": (),
        "rules_on": "image",
        "statistics": (),
        "body_level": None,
    }
    assert BuildConfig().model_dump() == {
        "layout": "files", "workers": 1, "on_error": "stop", "overwrite": False, "strict": False
    }  # fmt: skip


def test_one_number_is_both_and_a_pair_is_rows_then_cols() -> None:
    cfg = PatchConfig(patch_size=(64, 32), stride=16)
    assert (cfg.patch_size, cfg.stride) == ((64, 32), (16, 16))
    assert PatchConfig(patch_size=[5, 7]).patch_size == (5, 7)  # type: ignore[arg-type]  # as TOML gives it
    assert PatchConfig(patch_size=1, stride=16384).stride == (16384, 16384)


@pytest.mark.parametrize("field", ["patch_size", "stride"])
@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0, "greater than or equal to 1"),
        (-3, "greater than or equal to 1"),
        (16385, "less than or equal to 16384"),
        ((64, 0), "greater than or equal to 1"),
        ((64, 64, 64), "at most 2 items"),
        ((64,), "Field required"),
        (64.0, "whole number of pixels, or a pair (rows, cols)"),
        (True, "whole number of pixels, or a pair (rows, cols)"),
        ("64", "whole number of pixels, or a pair (rows, cols)"),
        (None, "whole number of pixels, or a pair (rows, cols)"),
        ((64, 32.5), "valid integer"),
        ((64, "32"), "valid integer"),
        ((64, True), "valid integer"),
    ],
)
def test_sizes_that_make_no_sense_are_refused_by_name(field: str, value: Any, said: str) -> None:
    message = refused(**{field: value})
    assert message.startswith(field)
    assert said in message
    shown = value if not isinstance(value, tuple) or len(value) != 2 else value[1]
    assert f"got {shown!r}" in message


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("pad_mode", "mirror", "'none', 'shift', 'even', 'zero', 'edge' or 'reflect'"),
        ("pad_mode", None, "'none', 'shift'"),
        ("value_range", (1.0, 0.0), "two finite numbers, the lower first"),
        ("value_range", (0.5, 0.5), "two finite numbers, the lower first"),
        ("value_range", (0.0, float("inf")), "two finite numbers, the lower first"),
        ("value_range", (float("nan"), 1.0), "two finite numbers, the lower first"),
        ("value_range", (0.0, "high"), "valid number"),
        ("air_level", float("nan"), "finite number"),
        ("air_level", "thick", "valid number"),
        ("rules_on", "../image", "letters, digits"),
        ("rules_on", "", "letters, digits"),
    ],
)
def test_other_nonsense_is_refused_by_name(field: str, value: Any, said: str) -> None:
    message = refused(**{field: value})
    assert message.startswith(field)
    assert said in message
    assert "got " in message


def test_every_fault_is_named_not_only_the_first() -> None:
    lines = refused(patch_size=0, pad_mode="mirror", air_level="x").splitlines()
    fields = dict.fromkeys(line.split(":")[0].split(".")[0] for line in lines)
    assert list(fields) == ["patch_size", "pad_mode", "air_level"]


def test_an_unknown_option_is_refused_with_those_there_are() -> None:
    message = refused(patchsize=64)
    assert message.startswith("patchsize: there is no such option")
    for known in ("patch_size", "stride", "pad_mode", "value_range", "air_level", "drop", "rules_on"):
        assert known in message
    assert "layout" not in message


def test_an_option_of_the_build_is_sent_there() -> None:
    for option in ("workers", "layout", "overwrite", "strict", "on_error"):
        message = refused(**{option: 2})
        assert message.startswith(
            f"{option}: there is no such option in PatchConfig; options are air_level, body_level, "
        )
        assert f"({option} decides no patch: give it to ctpatch.build)" in message
        assert message.count(option) == 2  # not among the options that there are


def test_two_rules_of_one_name_are_refused() -> None:
    message = refused(drop=("flat: std < 0.1", "dark: max < 0.5", "flat: std < 0.2"))
    assert "drop: two rules are named 'flat'" in message
    assert "use two names" in message


def test_options_are_frozen_comparable_and_survive_a_journey() -> None:
    cfg = PatchConfig(patch_size=(3, 4), drop=["flat: std < 0.1"])
    with pytest.raises(ValueError, match="frozen"):
        cfg.air_level = 0.5
    assert pickle.loads(pickle.dumps(cfg)) == cfg
    assert hash(cfg) == hash(PatchConfig(patch_size=(3, 4), drop=["flat: std < 0.1"]))
    assert PatchConfig(**json.loads(json.dumps({**cfg.model_dump(mode="json"), "drop": ["flat: std < 0.1"]}))) == cfg
    assert cfg != PatchConfig(patch_size=(4, 3), drop=["flat: std < 0.1"])


def test_with_rules_adds_behind() -> None:
    cfg = PatchConfig(patch_size=9, stride=(2, 3), pad_mode="edge", value_range=(-1, 2), drop=("a: std < 1",))
    more = cfg.with_rules(Rule(name="b", condition="max < 1"), min_std_rule(0.25))
    assert [rule.name for rule in more.drop] == ["a", "b", "low_variance"]
    assert {**more.options(), "drop": ()} == {**cfg.options(), "drop": ()}
    assert len(cfg.drop) == 1


@pytest.mark.parametrize(
    ("text", "name", "condition"),
    [
        ("flat: std < 0.01", "flat", "std < 0.01"),
        ("  a.b-c_1  :max<1 ", "a.b-c_1", "max<1"),
        ("x: a : b", "x", "a : b"),
    ],
)
def test_a_rule_is_a_name_and_a_condition(text: str, name: str, condition: str) -> None:
    assert Rule.parse(text) == Rule(name=name, condition=condition)


@pytest.mark.parametrize("text", ["std < 0.01", ": std < 1", "flat:", "flat:   ", "", ":"])
def test_a_rule_without_name_or_condition_is_refused(text: str) -> None:
    with pytest.raises(RuleError) as caught:
        Rule.parse(text)
    assert (caught.value.exit_status, caught.value.code) == (2, "rule")
    assert repr(text) in str(caught.value)
    assert "'name: condition'" in str(caught.value)
    assert '--drop "low_variance: std < 0.01"' in str(caught.value)


@pytest.mark.parametrize("name", ["", "a b", "../up", "-x", ".x", "a,b", "x" * 101, "a/b", "naïve", "a\n"])
def test_names_that_are_not_safe_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name: a rule's name needs letters, digits"):
        Rule(name=name, condition="std < 1")
    with pytest.raises(ConfigError) as caught:
        check_name(name, "the split")
    assert caught.value.exit_status == 2
    assert str(caught.value).startswith(f"the split {name[:60]!r} cannot be used as a name: use letters")


@settings(deadline=None)
@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}", fullmatch=True))
def test_safe_names_are_taken_as_they_are(name: str) -> None:
    assert check_name(name, "the split") == name
    assert Rule(name=name, condition="std < 1").name == name


@pytest.mark.parametrize("condition", ["", "   ", "x" * 2001])
def test_a_condition_has_a_length(condition: str) -> None:
    with pytest.raises(ConfigError, match="condition: a rule's condition has 1 to 2000 characters"):
        Rule(name="a", condition=condition)
    assert Rule(name="a", condition="x" * 2000).condition == "x" * 2000


@settings(deadline=None)
@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_min_std_is_the_rule_with_the_very_threshold(threshold: float) -> None:
    rule = min_std_rule(threshold)
    assert rule.name == "low_variance"
    column, comparison, number = rule.condition.split(" ")
    assert (column, comparison, float(number)) == ("std", "<", threshold)


@pytest.mark.parametrize("threshold", [-0.1, float("nan"), float("inf")])
def test_min_std_refuses_what_is_no_threshold(threshold: float) -> None:
    with pytest.raises(ConfigError, match=f"min_std: must be a finite number, 0 or more, got {threshold!r}"):
        min_std_rule(threshold)


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("layout", "zarr", "'files', 'shards', 'slices' or 'index'"),
        ("workers", 0, "greater than or equal to 1"),
        ("workers", 1025, "less than or equal to 1024"),
        ("workers", 2.0, "valid integer"),
        ("workers", True, "valid integer"),
        ("on_error", "ignore", "'stop' or 'skip'"),
        ("speed", 11, "no such option"),
    ],
)
def test_build_options_are_refused_by_name(field: str, value: Any, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        BuildConfig(**{field: value})
    assert str(caught.value).startswith(f"{field}: ")
    assert said in str(caught.value)
    assert str(caught.value).endswith(f"got {value!r}")


def test_a_fault_of_several_fields_is_a_sentence_without_a_dump() -> None:
    with pytest.raises(ConfigError) as caught:
        PatchConfig(drop=["a: std > 1", "a: std > 2"])
    assert "two rules are named 'a'" in str(caught.value)
    assert "patch_size" not in str(caught.value)
    assert "PatchConfig" not in str(caught.value)


@pytest.mark.parametrize("name", ["NUL", "con", "aux.npy", "COM1", "lpt9.x"])
def test_names_that_windows_keeps_for_itself(name: str) -> None:
    with pytest.raises(ConfigError, match="no device of Windows"):
        check_name(name, "the split")
