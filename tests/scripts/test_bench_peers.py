"""The benchmark's race: who is refused, what a ratio is, what the results file keeps."""

import json
import subprocess
import sys
from pathlib import Path

import bench_peers
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
