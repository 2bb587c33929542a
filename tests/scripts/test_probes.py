"""Linear probes against cases whose answer is known, and what events on copies have written."""

import json
import math

import numpy as np
import pytest
from synthetic_run import REPOSITORY  # noqa: F401 (makes mnemo importable)

from mnemo import probes
from mnemo.errors import DataError, UsageError
from mnemo.runs import Run


def features(values: np.ndarray, bits: np.ndarray) -> probes.Features:
    """One layer at every position but the last."""
    return probes.Features("features", 0, bits, np.arange(values.shape[1]), {0: values.astype(np.float32)})


@pytest.fixture
def bits() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, (60, 9)).astype(np.uint8)


def test_features_that_hold_the_next_bit_are_separable(bits):
    values = np.random.default_rng(1).normal(size=(60, 8, 4))
    values[:, :, 2] = 2.0 * bits[:, 1:] - 1
    found = probes.linear_probe(features(values, bits), 0, "next_bit")
    assert found.accuracy == found.fitted == 1.0 and found.chance == 0.5
    assert (found.num_train, found.num_test) == (30 * 8, 30 * 8)


def test_random_features_say_nothing_of_what_was_held_out(bits):
    values = np.random.default_rng(2).normal(size=(60, 8, 4))
    found = probes.linear_probe(features(values, bits), 0, "next_bit")
    assert abs(found.accuracy - 0.5) < 4 * 0.5 / math.sqrt(found.num_test)
    assert found.fitted < 0.65
    named = probes.linear_probe(features(values, bits), 0, "sequence", 10)
    assert named.accuracy < 0.35 and named.chance == 0.1 and (named.num_train, named.num_test) == (40, 40)


def test_features_that_name_the_sequence_are_separable_at_other_positions(bits):
    values = np.eye(10)[np.arange(60) % 10][:, None, :].repeat(8, axis=1)
    found = probes.linear_probe(features(values, bits), 0, "sequence", 10)
    assert found.accuracy == found.fitted == 1.0


def test_more_features_than_points_fit_anything_and_hold_nothing(bits):
    """Cover: N points in general position in more than N dimensions are separable whatever their labels."""
    values = np.random.default_rng(3).normal(size=(20, 8, 400))
    found = probes.linear_probe(features(values, bits), 0, "next_bit", 20)
    assert found.fitted == 1.0 and 0.2 < found.accuracy < 0.8


def test_constant_features_and_one_label_are_no_error(bits):
    assert probes.linear_probe(features(np.ones((60, 8, 3)), bits), 0, "sequence", 5).accuracy == pytest.approx(0.2)
    assert probes.linear_probe(features(np.ones((60, 8, 3)), np.ones_like(bits)), 0, "next_bit").accuracy == 1.0


@pytest.mark.parametrize(("target", "sequences"), [("next_bit", 1), ("wrong", 10)])
def test_what_leaves_nothing_to_hold_out_is_refused(bits, target, sequences):
    with pytest.raises(UsageError):
        probes.linear_probe(features(np.ones((60, 8, 3)), bits), 0, target, sequences)


def write_fork_probe(run, name: str, step: int, accuracy: np.ndarray, needed: int | None) -> None:
    (run / "probes").mkdir(exist_ok=True)
    said = {"step": step, "steps_needed": needed, "until": 0.8, "max_steps": 500, "sequences": 4, "seed": 0}
    (run / f"probes/{name}.{step}.json").write_text(json.dumps(said))
    np.save(run / f"probes/{name}.{step}.accuracy.npy", accuracy.astype(np.float32))


def test_fork_probes_come_by_step(run_dir):
    write_fork_probe(run_dir, "trained", 100, np.linspace(0.5, 0.9, 50), 50)
    write_fork_probe(run_dir, "random", 0, np.full(500, 0.55), None)
    random, trained = probes.fork_probes(Run(run_dir))
    assert (random.name, random.steps_needed, trained.steps_needed) == ("random", math.inf, 50.0)
    assert probes.accuracy_at(random, 50) == pytest.approx(0.55)
    assert probes.accuracy_at(trained, 50) == pytest.approx(np.linspace(0.5, 0.9, 50)[40:].mean())
    assert math.isnan(probes.accuracy_at(trained, 51))


def test_a_transplant_is_read_whole_or_refused(run_dir):
    (run_dir / "transplant").mkdir()
    rows = ["step,c_attn,mlp,set,accuracy,loss"]
    rows += [f"20,{i & 1},{i >> 1},{name},{0.5 + 0.1 * i},{0.7}" for i in range(4) for name in ("old", "new")]
    file = run_dir / "transplant/transplant.csv"
    file.write_text("\n".join(rows) + "\n")
    found = probes.transplant(Run(run_dir))
    assert found.groups == ["c_attn", "mlp"] and found.taken.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert found.accuracy["old"].tolist() == pytest.approx([0.5, 0.6, 0.7, 0.8])
    file.write_text("\n".join(rows[:-1]) + "\n")
    with pytest.raises(DataError, match="all 4 subsets"):
        probes.transplant(Run(run_dir))
    file.write_text("\n".join(rows).replace("0.5,", "half,") + "\n")
    with pytest.raises(DataError, match="not a table of numbers"):
        probes.transplant(Run(run_dir))


def test_a_run_without_features_or_transplants_says_what_it_lacks(run_dir):
    with pytest.raises(DataError, match="events of kind features"):
        probes.linear_probes(Run(run_dir))
    with pytest.raises(DataError, match="kind transplant"):
        probes.transplant(Run(run_dir))
    assert probes.fork_probes(Run(run_dir)) == []
