"""The kinds of values that records and configs are made of, converted strictly."""

import json
from cProfile import Profile
from dataclasses import dataclass, replace
from pstats import Stats
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smallvit.errors import SmallvitError
from smallvit.strict_json import canonical, digest, from_json, parse, to_json

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)

FEW = settings(max_examples=50)


@dataclass(frozen=True, kw_only=True)
class Part:
    count: int
    shares: dict[str, float | None]


@dataclass(frozen=True, kw_only=True)
class Whole:
    words: list[str]
    fact: str | int
    matrix: list[list[int]]
    pair: tuple[int, str]
    many: tuple[float, ...]
    part: Part | None
    mode: Literal["a", 1]
    anything: Any


VALUE = Whole(
    words=["x"], fact=3, matrix=[[1], []], pair=(1, "y"), many=(1.0, 2.5), part=Part(count=1, shares={"a": None}),
    mode=1, anything={"k": [None]},
)  # fmt: skip


def test_round_trip() -> None:
    assert from_json(Whole, json.loads(json.dumps(to_json(VALUE)))) == VALUE


def test_the_confusion_matrix_of_a_thousand_classes_takes_no_call_for_each_number() -> None:
    """Of a million numbers calls took 3 s of a core at each reading of a record, and a study reads hundreds."""
    whole = replace(VALUE, matrix=[[row, 1] * 500 for row in range(1000)])
    with Profile() as calls:
        assert from_json(Whole, to_json(whole)) == whole
    assert Stats(calls).total_calls < 200_000  # pyright: ignore[reportAttributeAccessIssue]


def test_what_is_copied_is_another_list() -> None:
    written = to_json(VALUE)
    read = from_json(Whole, written)
    assert VALUE.matrix[0] is not written["matrix"][0] is not read.matrix[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"words": ["x", 1]}, "config.words[1] is 1: expected str"),
        ({"fact": True}, "config.fact is true: expected str or int"),
        ({"fact": None}, "config.fact is null: expected str or int"),
        ({"matrix": [[1], [1.0]]}, "config.matrix[1][0] is 1.0: expected int"),
        ({"pair": [1]}, "config.pair is [1]: expected a list of 2"),
        ({"pair": ["y", 1]}, 'config.pair[0] is "y": expected int'),
        ({"many": [1, float("inf")]}, "config.many[1] is Infinity: expected a finite number"),
        ({"many": 1}, "config.many is 1: expected a list"),
        ({"part": {"count": 1}}, "config.part.shares is missing"),
        ({"part": {"count": 1, "shares": []}}, "config.part.shares is []: expected dict"),
        ({"part": {"count": 1, "shares": {"a": "b"}}}, 'config.part.shares.a is "b": expected a finite number'),
        ({"part": 1}, "config.part is 1: expected an object with the fields of Part"),
        ({"mode": "b"}, 'config.mode is "b": expected one of a, 1'),
        ({"mode": True}, "config.mode is true: expected one of a, 1"),
        ({"wrods": []}, "config.wrods is not known to this version: did you mean words?"),
        (
            {"zzz": []},
            "config.zzz is not known to this version: allowed are words, fact, matrix, pair, many, part, mode, "
            "anything",
        ),
        ({"words": "x" * 99}, f'config.words is "{"x" * 36}...: expected a list'),
    ],
)
def test_each_refusal_names_the_path_the_value_and_what_is_expected(change: dict[str, Any], message: str) -> None:
    with pytest.raises(SmallvitError) as caught:
        from_json(Whole, {**to_json(VALUE), **change})
    assert str(caught.value) == message


@FEW
@given(JSON)
def test_parse_reads_what_json_writes(value: Any) -> None:
    assert parse(json.dumps(value)) == value


@FEW
@given(st.dictionaries(st.text(), JSON, min_size=2, max_size=5))
def test_canonical_text_does_not_depend_on_the_order_of_keys(value: dict[str, Any]) -> None:
    turned = dict(reversed(list(value.items())))
    assert canonical(turned) == canonical(value)
    assert digest(turned) == digest(value)
    assert parse(canonical(value)) == value


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "1e999", "[-1e999]", '{"a": -Infinity}', '{"a": 1, "a": 1}', "[1,]", "", "[" * 10**5]
)
def test_parse_refuses_what_is_not_strictly_json(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parse(text)
