"""What a figure is expected to show, as data, and the verdict on what was measured.

    expected = Expectation("before", "accuracy before the switch", "near", 0.92, 0.03, source="the draft, figure 9")
    judge(expected, 0.917).verdict               # "as expected"

Relations to a number: `near` (within the tolerance), `at most`, `at least` (each give or take the tolerance), `above`,
`below`. Relations within a row of numbers: `rises`, `falls` (from each to the next, give or take the tolerance).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Union

import numpy as np

from mnemo.errors import DataError

AS_EXPECTED = "as expected"
ROWS = ("rises", "falls")
RELATIONS = ("near", "at most", "at least", "above", "below", *ROWS)
MAX_WRITTEN = 6  # numbers of a row
Measured = Union[float, Sequence[float], np.ndarray]


class Expectation(NamedTuple):
    """One number of a figure, or a row of them, by the key that the figure gives it."""

    key: str
    what: str
    relation: str
    value: float = math.nan
    tolerance: float = 0.0
    source: str = ""


class Verdict(NamedTuple):
    """A line of the table: all of it is text."""

    what: str
    measured: str
    expected: str
    verdict: str
    source: str

    @property
    def holds(self) -> bool:
        return self.verdict == AS_EXPECTED


def judge(expectation: Expectation, measured: Measured) -> Verdict:
    """Whether what was measured is as expected; what is not finite, or a row of fewer than two numbers, never is."""
    if expectation.relation not in RELATIONS:
        raise DataError(f"{expectation.key}: a relation is one of {', '.join(RELATIONS)}, got {expectation.relation!r}")
    numbers = np.atleast_1d(np.asarray(measured, np.float64))
    too_few = expectation.relation in ROWS and len(numbers) < 2
    if too_few or len(numbers) == 0 or not np.isfinite(numbers).all():
        verdict = "differs: could not be measured"
    else:
        reason = _deviation(expectation, numbers)
        verdict = f"differs: {reason}" if reason else AS_EXPECTED
    expected = _expected(expectation)
    return Verdict(expectation.what, _measured(numbers), expected, verdict, expectation.source)


def judge_all(expectations: Sequence[Expectation], measured: Mapping[str, Measured]) -> list[Verdict]:
    """A verdict for each expectation, in order; one that the figure did not measure differs."""
    return [judge(expectation, measured.get(expectation.key, math.nan)) for expectation in expectations]


def _deviation(expectation: Expectation, numbers: np.ndarray) -> str:
    """What is not as expected; empty where all is. Sums of tolerances round: a millionth of them is forgiven."""
    relation, value = expectation.relation, expectation.value
    tolerance = expectation.tolerance + 1e-9
    if relation in ROWS:
        steps = np.diff(numbers) * (1 if relation == "rises" else -1)
        worst = int(steps.argmin())
        backwards = "falls" if relation == "rises" else "rises"
        return "" if steps[worst] >= -tolerance else f"{backwards} by {-steps[worst]:.3g} from number {worst + 1}"
    over, under = float(numbers.max() - value), float(value - numbers.min())
    if relation in ("near", "at most") and over > tolerance:
        return f"{over:.3g} too high"
    if relation in ("near", "at least") and under > tolerance:
        return f"{under:.3g} too low"
    if (relation == "above" and under >= 0) or (relation == "below" and over >= 0):
        return f"not {relation}"
    return ""


def _measured(numbers: np.ndarray) -> str:
    shown = [short(number) for number in numbers]
    if len(shown) > MAX_WRITTEN:
        shown = [*shown[: MAX_WRITTEN // 2], "...", *shown[-MAX_WRITTEN // 2 :]]
    return " ".join(shown)


def _expected(expectation: Expectation) -> str:
    tolerance = f" +- {short(expectation.tolerance)}" if expectation.tolerance else ""
    if expectation.relation in ROWS:
        return expectation.relation + (f" (noise{tolerance})" if tolerance else "")
    relation = "" if expectation.relation == "near" else f"{expectation.relation} "
    return f"{relation}{short(expectation.value)}{tolerance}"


def short(number: float) -> str:
    """Three digits after the point, or four significant ones of what is large or tiny; `-` of what is none."""
    if not math.isfinite(number):
        return "-" if math.isnan(number) else "never"
    text = f"{number:.3f}" if 1e-3 <= abs(number) < 100 or number == 0 else f"{number:.4g}"
    return text.rstrip("0").rstrip(".") if "." in text and "e" not in text else text
