"""Learning rate schedules, clipping, decoupled decay and logarithmic evaluations, as users meet them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from engine import BINARY, CONFIG, DONE, call, make_place, mnemo_io, results

STEPS, RATE = 42, 1e-2
LR = f"train.lr={RATE}"


def run(root: Path, *overrides: str) -> dict:
    place = make_place(root, STEPS)
    done = place.train("run=tiny", *overrides)
    assert done.returncode == DONE, done.stderr
    return mnemo_io.read_run(place.run)


def rates_of_torch(schedule: str, warmup: int) -> np.ndarray:
    """The learning rate of every update."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=RATE)
    after = torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1)
    if schedule == "cosine":
        after = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS - warmup)
    rates = []
    for step in range(STEPS):
        rates.append(RATE * (step + 1) / warmup if step < warmup else optimizer.param_groups[0]["lr"])
        optimizer.step()
        if step >= warmup:
            after.step()
    return np.array(rates)


@pytest.mark.parametrize(("schedule", "warmup"), [("constant", 0), ("constant", 10), ("cosine", 0), ("cosine", 15)])
def test_metrics_hold_the_learning_rate_of_their_step(tmp_path: Path, schedule: str, warmup: int) -> None:
    metrics = run(tmp_path, f"train.schedule={schedule}", f"train.warmup={warmup}", LR, "train.log_every=1")["metrics"]
    np.testing.assert_allclose(metrics["lr"], rates_of_torch(schedule, warmup), rtol=1e-12)
    assert schedule == "cosine" or warmup or set(metrics["lr"]) == {RATE}


def test_a_clip_norm_that_no_gradient_has_changes_no_byte(tmp_path: Path) -> None:
    root = make_place(tmp_path, STEPS)
    assert root.train().returncode == DONE
    clipped = make_place(tmp_path / "clipped", STEPS)
    assert clipped.train("run=tiny", "train.clip_norm=1e6").returncode == DONE
    assert results(clipped.run) == results(root.run)
    short = make_place(tmp_path / "short", STEPS)
    assert short.train("run=tiny", "train.clip_norm=1e-3").returncode == DONE
    assert results(short.run)["final.safetensors"] != results(root.run)["final.safetensors"]


def test_a_run_whose_learning_rate_falls_to_its_end_does_not_grow(tmp_path: Path) -> None:
    cosine = ("run=tiny", "train.schedule=cosine", "train.warmup=5")
    place = make_place(tmp_path, STEPS)
    assert place.train(*cosine).returncode == DONE
    before = results(place.run)
    refused = place.train(*cosine, f"train.steps={2 * STEPS}")
    assert refused.returncode == CONFIG
    reason = f"(train.schedule: cosine took its learning rates on a way to 0 at {STEPS})"
    assert f"train.steps: {STEPS} -> {2 * STEPS} {reason}" in refused.stderr
    assert results(place.run) == before


def test_a_sweep_whose_learning_rate_falls_to_its_end_does_not_grow(tmp_path: Path) -> None:
    place = make_place(tmp_path, STEPS)
    sweep = [str(BINARY), "sweep", str(place.config), "--cache", str(place.cache), "seed=0,1", "train.schedule=cosine"]
    assert call(sweep).returncode == DONE
    refused = call([*sweep, f"train.steps={2 * STEPS}"])
    assert refused.returncode == CONFIG and f"a way to 0 at {STEPS})" in refused.stderr


def test_a_warm_up_does_not_hinder_growth(tmp_path: Path) -> None:
    events = [f"events.{i}.at={STEPS // 2}" for i in range(1, 5)]
    options = ["run=tiny", "train.warmup=30", "eval.per_decade=3", *events]
    whole = make_place(tmp_path / "whole", 2 * STEPS)
    assert whole.train(*options, "events.0.at=4").returncode == DONE
    grown = make_place(tmp_path / "grown", STEPS)
    assert grown.train(*options, "events.0.at=4").returncode == DONE
    assert grown.train(*options, "events.0.at=4", f"train.steps={2 * STEPS}").returncode == DONE
    left, right = results(grown.run), results(whole.run)
    assert [name for name in right if left.get(name) != right[name]] == []


def test_logarithmic_evaluations_stand_among_the_others(tmp_path: Path) -> None:
    sets = run(tmp_path, "eval.per_decade=4")["sets"]
    half = STEPS // 2
    distances = [1, 2, 3, 6, 10, 18]
    expected = {0, 20, 40, half, STEPS, *distances, *(half + d for d in distances)}
    step = sets["phase_0"]["step"]
    assert sorted(set(step.tolist())) == sorted(expected)
    assert np.all(np.diff(step) >= 0) and len(step) == len(expected) + 1  # the switch's own step twice
    assert sets["phase_1"]["step"].tolist() == sorted(s for s in expected if s >= half)


def test_records_hold_the_same_rows_beside_logarithmic_evaluations(tmp_path: Path) -> None:
    settings = ["output.pickle=numpy", "train.log_every=7", "eval.every=7", "train.schedule=cosine"]
    runs = [make_place(tmp_path / name, STEPS) for name in ("few", "many")]
    assert runs[0].train("run=tiny", *settings).returncode == DONE
    assert runs[1].train("run=tiny", *settings, "eval.per_decade=5").returncode == DONE
    few, many = (len(mnemo_io.read_run(each.run)["sets"]["train"]["step"]) for each in runs)
    assert few < many
    assert (runs[0].run / "tiny.pkl").read_bytes() == (runs[1].run / "tiny.pkl").read_bytes()
    logs = np.load(runs[1].run / "tiny.pkl", allow_pickle=True)["logs"]
    np.testing.assert_allclose([log["lr"] for log in logs], rates_of_torch("cosine", 0)[::7], rtol=1e-12)
