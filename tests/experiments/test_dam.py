"""Runs of the associative memory: its queue through stops, switches and files; what it measures; retrieval."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from engine import (
    BINARY,
    DONE,
    STOPPED,
    Place,
    assert_same_results,
    assert_whole,
    call,
    make_place,
    mnemo_io,
    results,
)

STEPS = 4000
TEXT = """\
name: tiny
threads: 1
device: cpu
data:  {{num_sequences: 20, length: 8}}
model: {{kind: dam, heads: 3, {model}}}
train: {{steps: {steps}, batch_size: 8, lr: 1.0e-2, log_every: 7}}
eval:  {{every: 50, novel: 10}}
events:
  - {{kind: snapshot, at: {half}, name: before}}
  - {{kind: switch,   at: {half}{switch}}}
  - {{kind: freeze,   at: {half}, params: [A]}}
"""


def make_dam(root: Path, model: str = "capacity: 50, positions: from_0", switch: str = "", steps: int = STEPS) -> Place:
    place = make_place(root, steps)
    place.config.write_text(TEXT.format(model=model, switch=switch, steps=steps, half=steps // 2))
    return place


@pytest.mark.parametrize("switch", ["", ", clear_memory: false"])
def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, switch: str) -> None:
    whole = make_dam(tmp_path / "whole", switch=switch)
    assert whole.train().returncode == DONE
    stopped = make_dam(tmp_path / "stopped", switch=switch)
    stops = 0
    for step in (100, STEPS // 2 + 300):  # in the first phase, and with a queue of two
        process = stopped.start()
        stopped.wait_for_step(process, step)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)
        stops += process.returncode == STOPPED
    assert stops > 0
    assert stopped.train().returncode == DONE
    assert_same_results(stopped.run, results(whole.run))
    assert_whole(stopped.run)


def test_the_queue_is_cleared_at_the_switch_unless_kept(tmp_path: Path) -> None:
    stored = {}
    for name, switch in {"cleared": "", "kept": ", clear_memory: false"}.items():
        place = make_dam(tmp_path / name, switch=switch, steps=100)
        assert place.train().returncode == DONE
        run = mnemo_io.read_run(place.run)
        rows = run["sets"]["phase_0"]["step"] == 50
        before, after = run["sets"]["phase_0"]["loss"][rows]
        stored[name] = (before, after, run["snapshots"]["before"]["memory"])
    before, after, memory = stored["cleared"]
    assert memory.shape == (50, 8) and set(np.unique(memory)) <= {0, 1}
    assert not np.array_equal(before, after) and np.allclose(after, np.log(2))
    before, after, _ = stored["kept"]
    assert np.array_equal(before, after)


def test_weights_with_their_memory_give_the_last_evaluation(tmp_path: Path) -> None:
    place = make_dam(tmp_path, steps=200)
    assert place.train().returncode == DONE
    assert call([str(BINARY), "evaluate", str(place.run), "--out", str(tmp_path / "scores")]).returncode == DONE
    for name in ("phase_0", "phase_1", "novel"):
        last = mnemo_io.read_run(place.run)["sets"][name]["loss"][-1]
        np.testing.assert_allclose(np.load(tmp_path / "scores" / name / "loss.npy"), last, rtol=1e-4, atol=1e-6)


def test_a_swap_keeps_what_is_stored(tmp_path: Path) -> None:
    place = make_dam(tmp_path, steps=200)
    with place.config.open("a") as file:
        file.write("  - {kind: snapshot, at: end, name: last}\n")
        file.write("  - {kind: swap_test, at: end, name: same, params: [A], from: last}\n")
        file.write("  - {kind: swap_test, at: end, name: old, params: [A, B], from: before}\n")
    assert place.train().returncode == DONE
    for name in ("phase_0", "phase_1", "novel"):
        last, same, old = (
            np.load(place.run / "eval" / folder / "loss.npy")[-1] for folder in (name, f"same.{name}", f"old.{name}")
        )
        assert np.array_equal(last, same) and not np.array_equal(last, old), name


def test_measures_stand_beside_the_losses(tmp_path: Path) -> None:
    place = make_dam(tmp_path, steps=100)
    assert place.train().returncode == DONE
    run = mnemo_io.read_run(place.run)
    metrics, measures = run["metrics"], {path.stem: np.load(path) for path in (place.run / "measures").glob("*.npy")}
    assert all(np.array_equal(run["measures"][name], array, equal_nan=True) for name, array in measures.items())
    assert np.array_equal(measures.pop("step"), metrics["step"])
    used = ["A_correlation_offdiag_mean", "A_logits_mean", "A_sharpness", "B_logits_mean"]
    assert sorted(measures) == sorted([*used, "A_raw_logits_mean", "A_raw_correlation_offdiag_mean"])
    assert all(values.shape == (len(metrics["step"]), 8) for values in measures.values())
    np.testing.assert_allclose(np.nanmean(measures["A_sharpness"], 1), metrics["A_sharpness"], rtol=1e-6)
    assert metrics["distinct_stored"].max() <= 20
    # A is frozen from the switch on, B is not
    assert np.array_equal(measures["A_logits_mean"][-1], measures["A_logits_mean"][-2], equal_nan=True)
    assert not np.array_equal(measures["B_logits_mean"][-1], measures["B_logits_mean"][-2])


def test_retrieval_names_the_sequences_that_are_scored(tmp_path: Path) -> None:
    place = make_dam(tmp_path, model="objective: retrieval", steps=400)
    assert place.train().returncode == DONE
    run = mnemo_io.read_run(place.run)
    for name, chance in {"phase_0": 1 / 20, "phase_1": 1 / 20, "novel": 1 / 10}.items():
        accuracy = run["sets"][name]["accuracy"][
            -1
        ].mean()  # each set is its own memory, so none needs to have been seen
        assert accuracy > 2 * chance, name
    assert "memory" not in run["snapshots"]["before"]
    ceiling = run["theory"][0]["ceiling"]
    assert run["sets"]["phase_0"]["accuracy"][-1].mean() <= ceiling.mean() + 1e-6


@pytest.mark.slow
def test_figure_9_over_its_first_steps(tmp_path: Path) -> None:
    """Online accuracy of H = 10 in steps 1000-1100 of both phases: .587 and .701 (MATHS 7), never above the ceiling."""
    config = Path(__file__).resolve().parents[2] / "configs/paper/dam_fig9.yaml"
    overrides = ["model.heads=10", "train.steps=2200", "eval.every=1100", "run=short"]
    done = call([str(BINARY), "train", str(config), *overrides, "--cache", str(tmp_path), "--progress", "none"])
    assert done.returncode == DONE, done.stderr
    run = mnemo_io.read_run(tmp_path / "dam_fig9/short")
    accuracy = dict(zip(run["metrics"]["step"].tolist(), run["metrics"]["train_accuracy"].tolist()))
    assert accuracy[1100] == pytest.approx(0.587, abs=0.03)
    assert accuracy[2200] == pytest.approx(0.701, abs=0.03)
    assert max(accuracy.values()) < 0.929
