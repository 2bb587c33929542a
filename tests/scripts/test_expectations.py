"""Verdicts on measured numbers."""

import math

import pytest
from synthetic_run import REPOSITORY  # noqa: F401 (makes mnemo importable)

from mnemo.errors import DataError
from mnemo.expectations import AS_EXPECTED, Expectation, judge, judge_all


def verdict(relation: str, measured, value: float = math.nan, tolerance: float = 0.0) -> str:
    return judge(Expectation("key", "what", relation, value, tolerance), measured).verdict


@pytest.mark.parametrize(
    ("relation", "value", "tolerance", "good", "bad"),
    [
        ("near", 0.92, 0.03, [0.89, 0.92, 0.95], [0.88, 0.96]),
        ("at most", 0.929, 0.0, [0.5, 0.929], [0.93]),
        ("at most", 0.9, 0.05, [0.95], [0.96]),
        ("at least", 0.5, 0.1, [0.4, 3.0], [0.39]),
        ("above", 0.0, 0.0, [1e-6], [0.0, -1.0]),
        ("below", 0.0, 0.0, [-1e-6], [0.0, 1.0]),
    ],
)
def test_relations_to_a_number(relation, value, tolerance, good, bad):
    assert all(verdict(relation, measured, value, tolerance) == AS_EXPECTED for measured in good)
    assert all(verdict(relation, measured, value, tolerance).startswith("differs: ") for measured in bad)


def test_relations_within_a_row():
    assert verdict("rises", [0.1, 0.2, 0.2]) == AS_EXPECTED
    assert verdict("falls", [0.3, 0.2, 0.1]) == AS_EXPECTED
    assert verdict("rises", [0.1, 0.3, 0.25]) == "differs: falls by 0.05 from number 2"
    assert verdict("rises", [0.1, 0.3, 0.25], tolerance=0.05) == AS_EXPECTED
    assert verdict("falls", [0.1, 0.3]) == "differs: rises by 0.2 from number 1"


def test_it_says_by_how_much():
    assert verdict("near", 0.5, 0.92, 0.03) == "differs: 0.42 too low"
    assert verdict("at most", 0.95, 0.9) == "differs: 0.05 too high"


@pytest.mark.parametrize("measured", [math.nan, math.inf, [], [0.1, math.nan]])
def test_what_is_not_finite_is_never_as_expected(measured):
    for relation in ("near", "at most", "rises"):
        assert verdict(relation, measured, 0.1, 10.0) == "differs: could not be measured"


def test_a_row_needs_two_numbers():
    assert verdict("rises", [0.5]) == "differs: could not be measured"


def test_an_unknown_relation_is_refused():
    with pytest.raises(DataError, match="a relation is one of"):
        verdict("equals", 1.0, 1.0)


def test_a_table_line_says_both_numbers_and_where_the_expected_comes_from():
    expectations = [Expectation("a", "accuracy", "near", 0.92, 0.03, "the paper"), Expectation("b", "loss", "rises")]
    first, second = judge_all(expectations, {"a": 0.917})
    assert first == ("accuracy", "0.917", "0.92 +- 0.03", AS_EXPECTED, "the paper") and first.holds
    assert second.measured == "-" and not second.holds
