"""The benchmark's race: who is refused, what a ratio is, what the results file keeps."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import bench_peers
import bench_sweep_peers
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
LOSSES = [0.69, 0.6, 0.5]
CONTESTANT = """
import json, sys
losses, rate = json.loads(sys.argv[1]), float(sys.argv[2])
print(json.dumps({"losses": losses}), flush=True)
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    print(json.dumps({"steps_per_s": rate}), flush=True)
print(json.dumps({"peak_rss_mb": 7}), flush=True)
"""


def contestant(losses, rate):
    return [sys.executable, "-c", CONTESTANT, json.dumps(losses), str(rate)]


def race(**commands):
    rows = bench_peers.race(commands, lambda form: LOSSES, threads=1, rounds=3)
    return {row["form"]: row for row in rows}


def test_a_ratio_is_how_many_times_slower_a_peer_is():
    rows = race(mnemo=contestant(LOSSES, 100), peer=contestant(LOSSES, 20))
    assert rows["peer"]["slower_than_first"] == [5, 5, 5]
    assert rows["peer"]["steps_per_s"] == 20 and rows["peer"]["peak_rss_mb"] == 7


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([0.69, 0.6, 0.5003], "loss 2 differs by 6.0e-04"),
        ([0.69, float("nan"), 0.5], "loss 1 differs by nan"),
        ([0.69, 0.6], "only 2 losses"),
    ],
)
def test_other_losses_get_no_ratio(losses, reason, capsys):
    rows = race(mnemo=contestant(LOSSES, 100), peer=contestant(losses, 1e9))
    assert rows["peer"] == {"form": "peer", "refused": reason}
    table = [{"name": "one_layer", "config": "A", "threads": 1, **row} for row in rows.values()]
    bench_peers.print_table(table)
    printed = capsys.readouterr().out
    assert f"refused: {reason}" in printed and "best peer" not in printed


def test_losses_within_the_tolerance_agree():
    assert bench_peers.disagreement([0.69003, 0.6, 0.5, 0.1], np.asarray(LOSSES)) == ""


def test_a_peer_that_ends_is_named():
    rows = race(mnemo=contestant(LOSSES, 100), peer=[sys.executable, "-c", "raise SystemExit(3)"])
    assert rows["peer"]["refused"] == "ended with status 3"


def test_results_of_other_configurations_stay(tmp_path):
    file = tmp_path / "results.json"
    row = {"name": "one_layer", "config": "A", "threads": 1, "device": "cpu", "form": "mnemo", "steps_per_s": 1.0}
    bench_peers.write_results(file, [row, {**row, "config": "B"}])
    bench_peers.write_results(file, [{**row, "steps_per_s": 2.0}])
    results = json.loads(file.read_text())
    assert {r["config"]: r["steps_per_s"] for r in results["rows"]} == {"A": 2.0, "B": 1.0}
    assert results["processor"]


def test_one_a_core_shares_the_runs_out():
    run = bench_sweep_peers.one_a_core(lambda rate: lambda steps: [rate, os.getpid()][:steps], [0.1, 0.2, 0.3])
    assert run(1) == [[0.1, 0.2, 0.3]]
    processes = {*run(2)[1]}
    assert len(processes) == min(3, len(os.sched_getaffinity(0))) and os.getpid() not in processes


def test_a_wrong_rate_is_seen():
    runs = len(bench_sweep_peers.RATES)
    losses = np.full((24, runs), 0.5)
    reference = np.asarray(bench_sweep_peers.compared(losses))
    late, early = losses.copy(), losses.copy()
    late[19, bench_sweep_peers.RATES.index(1e-3)] = early[3, runs - 1] = 0.6
    for other in (late, early):
        assert "differs by 2.0e-01" in bench_peers.disagreement(bench_sweep_peers.compared(other), reference)
    rounding = losses.copy()
    rounding[4:, 0] = 0.6
    assert bench_peers.disagreement(bench_sweep_peers.compared(rounding), reference) == ""


@pytest.mark.parametrize("package", ["torch", "jax"])
def test_a_pack_trains_as_single_runs(package):
    pytest.importorskip("torch")
    pytest.importorskip(package)
    heads, width, length, rates = 2, 4, 6, [1e-3, 1e-2]
    random = np.random.default_rng(0)
    shapes = {"wte": (2, width), "wpe": (length, width), "c_attn": (3 * width, width), "ln_f": (width,)}
    shapes.update({f"linear_modules.{layer}": (width, width) for layer in range(2)}, lm_head=(2, width))
    weights = {f"{name}.weight": random.standard_normal(shape) for name, shape in shapes.items()}
    biased = [name for name in shapes if name not in ("wte", "wpe")]
    weights.update({f"{name}.bias": random.standard_normal(shapes[name][0]) for name in biased})
    data = {
        "weights": {name: array.astype(np.float32) for name, array in weights.items()},
        "sequences": random.integers(0, 2, (10, length)),
        "batches": random.integers(0, 10, (8, 4)),
        "trains": True,
    }
    singles = [bench_peers.torch_peer(data, heads, "cpu", compiled=False, rate=rate)(16) for rate in rates]
    if package == "torch":
        loss_of = partial(bench_peers.torch_loss, heads=heads)
        pack = bench_sweep_peers.torch_pack(data, "cpu", loss_of, bench_peers.ADAM, compiled=False, rates=rates)
    else:
        pack = bench_peers.jax_peer(data, heads, rates)
    np.testing.assert_allclose(pack(16), np.transpose(singles), rtol=1e-4)
    assert abs(singles[0][-1] / singles[1][-1] - 1) > 1e-2


def test_a_sweep_that_writes_other_bytes_than_train_is_an_error(tmp_path):
    for cache in ("sweep", "train"):
        for n, rate in enumerate(reversed(bench_sweep_peers.RATES)):
            run = tmp_path / cache / "sweep" / f"train.lr={rate}"
            run.mkdir(parents=True)
            line = {"step": 1, "phase": 0, "draws": 4, "train_loss": float(n), "train_accuracy": 0.5, "lr": rate}
            (run / "metrics.jsonl").write_text(json.dumps(line) + "\n")
    losses = bench_sweep_peers.first_losses(tmp_path / "sweep", tmp_path / "train", 1)
    assert losses.tolist() == [list(range(15, -1, -1))]
    other = tmp_path / "train/sweep/train.lr=0.001/metrics.jsonl"
    other.write_text(other.read_text().replace('"draws": 4', '"draws":  4'))
    with pytest.raises(ValueError, match=r"train\.lr=0\.001: mnemo sweep and mnemo train write different"):
        bench_sweep_peers.first_losses(tmp_path / "sweep", tmp_path / "train", 1)


@pytest.mark.parametrize("form", bench_sweep_peers.OWN_FORMS)
def test_a_run_that_fails_is_no_measurement(form, tmp_path):
    mnemo = tmp_path / "mnemo"
    mnemo.write_text('#!/bin/sh\necho "$@" >> "$0.log"\necho no such thing >&2\nexit 3\n')
    mnemo.chmod(0o755)
    with pytest.raises(ValueError, match="status 3: no such thing"):
        bench_sweep_peers.job_rate(form, str(mnemo), tmp_path, cores=2, steps=20)
    commands = (tmp_path / "mnemo.log").read_text().splitlines()
    assert len(commands) == (1 if form == "mnemo sweep" else len(bench_sweep_peers.RATES))
    assert all(str(rate) in " ".join(commands) for rate in bench_sweep_peers.RATES)


@pytest.mark.parametrize("options", [["--steps", "19"], ["--device", "cuda"], ["--config", "B"]])
def test_a_sweep_that_cannot_be_measured_is_a_usage_error(options):
    command = [sys.executable, ROOT / "scripts/bench_peers.py", "sweep", *options]
    assert subprocess.run(command, capture_output=True).returncode == 64


@pytest.mark.slow
def test_a_sweep_agrees_with_its_peers(tmp_path):
    out, peers = tmp_path / "results.json", ["torch eager, one a core", "torch eager, pack"]
    command = [sys.executable, ROOT / "scripts/bench_peers.py", "sweep", "--config", "C", "--steps", "20"]
    options = ["--rounds", "1", "--seconds", "0.02", "--out", out, "--peers", *peers]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads(out.read_text())["rows"]
    assert [row["form"] for row in rows] == [*bench_sweep_peers.OWN_FORMS, *peers]
    assert all(row["steps_per_s"] > 0 and row["steps"] == 20 and row["runs"] == 16 for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize(("benchmark", "config"), [("one_layer", "C"), ("evaluate", "L16")])
def test_pytorch_agrees_with_the_engine(benchmark, config, tmp_path):
    out = tmp_path / "results.json"
    command = [sys.executable, ROOT / "scripts/bench_peers.py", benchmark, "--config", config]
    options = ["--peers", "torch eager", "--rounds", "1", "--seconds", "0.02", "--out", out]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {row["form"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["torch eager"]["slower_than_first"][0] > 1
    assert set(rows) >= {"mnemo", "mnemo, all cells", "torch eager"}
