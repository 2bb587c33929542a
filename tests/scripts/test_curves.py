"""curves.py: which rows and ranks a curve is made of."""

import numpy as np
import pytest

from mnemo import curves


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


def test_selecting_ranks_keeps_what_belongs_to_the_rows():
    scored = columns([0, 0, 1, 1], [0, 1, 2, 3], 0.9)
    part = curves.select_ranks({**scored, "moment": np.array([0, 0, 0, 1], np.uint8)}, np.array([1, 3]))
    assert part["rank"].tolist() == [1, 3] and part["accuracy"].shape == (4, 2)
    assert part["moment"].tolist() == [0, 0, 0, 1]


def test_of_two_rows_at_one_step_the_first_is_before_the_events():
    step = np.array([0, 10, 20, 20, 30])
    assert curves.rows_before(step, 20) == slice(0, 3)
    assert curves.rows_after(step, 20) == slice(3, 5)
    assert curves.last_rows(step).tolist() == [0, 1, 3, 4]


# Phases ---------------------------------------------------------------------------------------------------------------


def test_moments_are_right_after_and_before_the_switches_and_at_the_end():
    one, two = [{"phase": 1, "step": 30}], [{"phase": 1, "step": 30}, {"phase": 2, "step": 50}]
    both = columns([0, 0, 0, 0, 1, 1], [0, 1], 0.9)
    both["step"] = np.array([0, 10, 20, 30, 30, 40])
    assert curves.moments(both, 0, one) == (0, 3, 5)
    assert curves.moments(both, 1, one) == (4, 5, 5)
    assert curves.moments(both, 1, two) == (4, 5, None)  # no longer scored at the end
    once = {**both, "step": np.array([0, 10, 20, 30, 40, 50]), "phase": np.array([0, 0, 0, 1, 1, 1])}
    assert curves.moments(once, 0, one) == (0, 3, 5)  # one row at the switch is before and after it
    later = columns([2, 2], [0, 1], 0.9)
    later["step"] = np.array([50, 60])
    assert curves.moments(later, 0, two) == (None, None, 1)


def test_columns_of_a_phase_are_cut_to_some_ranks():
    sets = {"train": columns([0, 1], [0, 10, 20], 0.9), "phase_0": columns([0], [0, 1, 10], 0.9)}
    assert curves.phase_columns(sets, 0, np.array([0, 10]))["rank"].tolist() == [0, 10]
    assert curves.phase_columns(sets, 1, np.array([0, 20]))["accuracy"].shape == (1, 2)
    assert curves.phase_columns(sets, 1, np.array([5])) is None


def test_train_stands_in_for_a_phase_that_has_no_set_and_has_no_end_after_the_switch():
    sets = {"train": columns([0, 0, 1, 1], [0, 10], 0.9)}
    assert curves.phase_columns(sets, 0)["step"].tolist() == [0, 10]
    assert curves.phase_columns(sets, 1)["step"].tolist() == [20, 30]
    assert curves.phase_columns(sets, 1)["rank"].tolist() == [0, 10]
    assert curves.phase_columns(sets, 2) is None
    assert curves.phase_columns({}, 0) is None


# Thresholds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["ceiling:0", "ceiling:1.1", "0", "1.5", "ceiling:", "x", "nan"])
def test_thresholds_that_make_no_sense_are_refused(text):
    with pytest.raises(ValueError):
        curves.parse_threshold(text)


def test_a_relative_threshold_is_a_share_of_the_way_from_chance_to_the_ceiling():
    target = curves.target_accuracy(curves.parse_threshold("ceiling:0.9"), np.array([1.0, 0.7]), 2)
    assert target == pytest.approx([0.95, 0.68])
    assert curves.target_accuracy((True, 0.9), np.array([0.6]), 1, chance=0.1) == pytest.approx([0.55])
    assert curves.target_accuracy(curves.parse_threshold("0.9"), None, 2).tolist() == [0.9, 0.9]
    assert np.isnan(curves.target_accuracy(curves.parse_threshold("ceiling:0.9"), None, 2)).all()


def test_presentations_to_is_the_first_evaluation_that_holds_or_censored():
    accuracy = np.array([[0.5, 0.5], [0.9, 0.6], [0.7, 0.7], [0.95, 0.8]])
    presentations = np.array([[0, 0], [10, 1], [20, 2], [30, 3]])
    target = np.full(2, 0.9)
    assert curves.presentations_to(accuracy, presentations, target).tolist() == [10, np.inf]
    mean = np.full((2, 1), 0.5)
    assert curves.presentations_to(accuracy, presentations, np.full(2, 0.75), mean).tolist() == [5.5]
    assert curves.presentations_to(accuracy[:0], presentations[:0], target).tolist() == [np.inf, np.inf]


def test_the_threshold_lies_between_two_evaluations():
    accuracy, presentations = np.array([[0.5], [0.6], [0.9]]), np.array([[0], [10], [30]])
    generator = np.random.default_rng(0)
    for target, between in ((0.8, (10, 30)), (0.55, (0, 10)), (0.5, (0, 0)), (0.95, (30, np.inf))):
        found = curves.bootstrap_presentations(accuracy, presentations, np.array([target]), 1, generator)
        assert found[:2] == between


def test_resampling_draws_as_many_ranks_as_there_are_with_replacement():
    weights = curves.resampling(50, 200, np.random.default_rng(0))
    assert weights.shape == (50, 200)
    assert weights.sum(axis=0) == pytest.approx(np.ones(200))
    assert (weights == 0).mean() == pytest.approx(np.exp(-1), abs=0.02)
    assert np.array_equal(weights, curves.resampling(50, 200, np.random.default_rng(0)))


def test_the_bootstrap_interval_covers_a_known_mean():
    generator = np.random.default_rng(3)
    inside = 0
    for _ in range(200):
        sample = generator.normal(10.0, 2.0, 40)
        resampled = sample @ curves.resampling(40, 200, generator)
        _, low, high = curves.median_over_seeds(np.array([sample.mean()]), resampled[None], generator)
        inside += low <= 10.0 <= high
    assert 0.88 <= inside / 200 <= 0.99


def test_censored_seeds_take_part_in_medians():
    generator = np.random.default_rng(0)
    values = np.array([10.0, 20.0, np.inf])
    median, low, high = curves.median_over_seeds(values, np.repeat(values[:, None], 300, 1), generator)
    assert (median, low, high) == (20.0, 10.0, np.inf)
    values = np.array([10.0, np.inf, np.inf])
    assert curves.median_over_seeds(values, np.repeat(values[:, None], 300, 1), generator)[0] == np.inf


# Switch, swap, memory, distance ---------------------------------------------------------------------------------------


def test_drop_and_recovery():
    drop, recovery = curves.switch_drop(np.array([0.9, 0.5]), np.array([0.5, 0.5]), np.array([0.8, 0.9]))
    assert drop == pytest.approx([0.4, 0.0])
    assert recovery[0] == pytest.approx(0.75)
    assert np.isnan(recovery[1])
    assert curves.swap_recovery(np.array(0.9), np.array(0.5), np.array(0.7)) == pytest.approx(0.5)


def test_stored_bits():
    assert curves.stored_bits(np.zeros(4), 15, 4) == pytest.approx(60)  # certain of every bit
    assert curves.stored_bits(np.full(4, np.log(2)), 15, 4) == pytest.approx(0)
    assert curves.stored_bits(np.full((3, 2), np.log(2) / 2), 10, 40) == pytest.approx([200] * 3)  # 2 stand for 40


def test_distance_over_log_presentations():
    presentations = np.array([0.0, 1.0, 10.0, 100.0])
    accuracy = np.array([0.5, 0.6, 0.7, 0.8])
    assert curves.curve_distance((presentations, accuracy), (presentations, accuracy)) == (0.0, 2.0)
    shifted = (presentations, accuracy + 0.1)
    assert curves.curve_distance((presentations, accuracy), shifted) == (pytest.approx(0.1), 2.0)
    later = (presentations * 10, accuracy)  # the same curve a decade later: .1 apart, over one decade
    assert curves.curve_distance((presentations, accuracy), later) == (pytest.approx(0.1), pytest.approx(1.0))
    crossing = (presentations, np.array([0.5, 0.8, 0.7, 0.6]))  # |difference| .2, 0, .2: mean .1
    assert curves.curve_distance((presentations, accuracy), crossing)[0] == pytest.approx(0.1, abs=1e-3)
    apart = (presentations * 1e4, accuracy)
    assert np.isnan(curves.curve_distance((presentations, accuracy), apart)[0])
