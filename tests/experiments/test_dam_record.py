"""`mnemo export` of a DAM run: the record holds against the contract and has the numbers of the run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine import BINARY, DATA, DONE, call, mnemo_io  # engine puts scripts/ on the path

from mnemo.commands import export_check  # isort: skip
from mnemo.records import pickles  # isort: skip

CONFIG = """\
name: dams
threads: 1
device: cpu
data:  {num_sequences: 30, length: 9}
model: {kind: dam, heads: 3, capacity: 64, eta: 5}
train: {steps: 120, batch_size: 8, lr: 1.0e-2, log_every: 10}
eval:  {every: 25, novel: 0}
events:
  - {kind: snapshot, at: 50%, name: before}
  - {kind: switch,   at: 50%}
  - {kind: freeze,   at: 50%, params: [A, B]}
"""


def train(folder: Path, *overrides: str) -> Path:
    (folder / "dams.yaml").write_text(CONFIG)
    command = [
        str(BINARY),
        "train",
        str(folder / "dams.yaml"),
        *overrides,
        "--cache",
        str(folder),
        "--progress",
        "none",
    ]
    done = call(command)
    assert done.returncode == DONE, done.stderr
    return next((folder / "dams").iterdir())


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return train(tmp_path_factory.mktemp("dams"))


def export(*arguments: object, code: int = DONE) -> str:
    done = call([str(BINARY), "export", *map(str, arguments)])
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == DONE else done.stderr


def test_in_a_tree_it_is_alone_in_the_group_and_has_the_runs_numbers(run, tmp_path, capsys):
    pytest.importorskip("torch")
    path = tmp_path / "dams/dam_dams.pt"
    assert export(run, "--tree", tmp_path) == f"{path}\n"
    assert [file.name for file in path.parent.iterdir() if not file.name.startswith(".")] == [path.name]
    assert export_check.main([str(tmp_path)]) == 65
    said = capsys.readouterr().out
    assert said.count("\n       ") == 1 and "NUM_ITERS_PER_LOG: is 10; cells of figure 9" in said
    record, native = pickles.read_record(path), mnemo_io.read_run(run)
    assert record["args"].is_freeze_A == "False" and record["args"].NUM_STEPS == 60
    logs = record["logs"]
    assert [(log["phase"], log["step"]) for log in logs] == [
        (p, s) for p in ("train", "eval") for s in range(0, 60, 10)
    ]
    assert [log["loss"] for log in logs] == native["metrics"]["train_loss"].tolist()
    assert [log["A_sharpness"] for log in logs] == pytest.approx(native["metrics"]["A_sharpness"], abs=1e-6)
    snapshot = native["snapshots"]["before"]
    assert np.allclose(logs[5]["A_logits_mean"], snapshot["A_logits"].mean(axis=(1, 2)), atol=1e-6)
    assert np.allclose(logs[5]["B_logits_mean"], snapshot["B_logits"].mean(axis=0), atol=1e-6)
    correlation = [
        np.corrcoef(heads)[~np.eye(len(heads), dtype=bool)].mean() for heads in snapshot["A_logits"].astype(float)
    ]
    assert np.allclose(logs[5]["A_correlation_offdiag_mean"], correlation, atol=1e-6)
    assert np.array_equal((record["model_state_dict"]["memory"] + 1) / 2, snapshot["memory"])
    for name in ("A_logits", "B_logits"):
        assert np.array_equal(record["model_state_dict"][name], snapshot[name])


def test_in_the_run_directory_it_is_written_again_with_the_same_bytes(run):
    pytest.importorskip("torch")
    path = run / "dam_dams.pt"
    assert export(run) == f"{path}\n"  # eval.every is no epoch: there are no sequences
    first = path.read_bytes()
    assert export(run, "--epoch-steps", 20) == f"{run / 'dams_sequences.pkl'}\n{path}\n"
    assert path.read_bytes() == first


def test_what_a_run_lacks_is_said(tmp_path):
    pytest.importorskip("torch")
    run = train(tmp_path, "events.0.at=25%")
    said = export(run, "--tree", tmp_path / "tree", code=DATA)
    assert "no snapshot of the end of the first phase" in said and "at: 60" in said
