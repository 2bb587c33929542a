"""curves.py: which rows and ranks a curve is made of."""

import curves
import numpy as np


def columns(phase: list[int], ranks: list[int], value: float) -> dict[str, np.ndarray]:
    shape = (len(phase), len(ranks))
    return {
        "step": np.arange(len(phase)) * 10,
        "phase": np.array(phase),
        "rank": np.array(ranks),
        "accuracy": np.full(shape, value),
    }


def test_current_sequences_join_each_set_while_its_phase_is_current():
    sets = {"phase_0": columns([0, 0, 1, 1], [0, 1], 0.9), "phase_1": columns([1, 1], [0, 1], 0.6)}
    joined = curves.current_sequences(sets)
    assert joined["phase"].tolist() == [0, 0, 1, 1]
    assert joined["accuracy"][:, 0].tolist() == [0.9, 0.9, 0.6, 0.6]
    assert joined["step"].tolist() == [0, 10, 0, 10]


def test_current_sequences_need_equal_ranks():
    assert curves.current_sequences({"train": columns([0], [0], 1.0)}) is None
    sets = {"phase_0": columns([0], [0, 1], 0.9), "phase_1": columns([1], [0, 2], 0.6)}
    assert curves.current_sequences(sets) is None


def test_of_two_rows_at_one_step_the_first_is_before_the_events():
    step = np.array([0, 10, 20, 20, 30])
    assert curves.rows_before(step, 20) == slice(0, 3)
    assert curves.rows_after(step, 20) == slice(3, 5)
    assert curves.last_rows(step).tolist() == [0, 1, 3, 4]
