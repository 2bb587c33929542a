"""Records that the engine exports: they hold against the contract, and come back as the run they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine import BINARY, call, mnemo_io  # engine puts scripts/ on the path

from mnemo.commands import export_check  # isort: skip
from mnemo.records import convert  # isort: skip
import notebook_example  # isort: skip

CONFIG = """\
name: record
threads: 1
device: cpu
data:  {num_sequences: 40, length: 12}
model: {kind: one_layer_attention, heads: 2, head_dim: 4, mlp_layers: 2}
train: {steps: 400, batch_size: 16, lr: 3.0e-3, log_every: 25}
eval:  {every: 50, novel: 0}
events:
  - {kind: snapshot, at: 50%, name: before}
  - {kind: switch,   at: 50%}
output: {pickle: torch}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("record")
    (folder / "record.yaml").write_text(CONFIG)
    done = call([str(BINARY), "train", str(folder / "record.yaml"), "--cache", str(folder), "--progress", "none"])
    assert done.returncode == 0, done.stderr
    return folder / "record/record"


def exported(run: Path, tree: Path, *options: str) -> Path:
    done = call([str(BINARY), "export", str(run), "--tree", str(tree), *options])
    assert done.returncode == 0, done.stderr
    return next(path for path in tree.rglob("*.pkl") if "sequences" not in path.name)


@pytest.mark.parametrize("form", ["torch", "numpy"])
@pytest.mark.parametrize("rows", ["current", "all_phases", "all_validation", "all_ranks"])
def test_a_record_comes_back_as_its_run(run, tmp_path, capsys, rows, form):
    path = exported(run, tmp_path / "tree", "--rows", rows, "--format", form)
    assert export_check.main([str(tmp_path / "tree")]) == 0, capsys.readouterr().out
    convert.import_record(path, tmp_path / "back")
    native, back = mnemo_io.read_run(run), mnemo_io.read_run(tmp_path / "back")
    for name, columns in back["sets"].items():
        for row, (step, phase) in enumerate(zip(columns["step"], columns["phase"])):
            own = native["sets"][f"phase_{phase}" if name == "train" else name]
            at = np.searchsorted(own["step"], step, "right") - 1
            for key in ("loss", "accuracy"):
                assert np.array_equal(columns[key][row], own[key][at][columns["rank"]]), (name, step, key)
    assert back["switches"] == native["switches"]
    assert list(back["final"]) == list(native["final"])
    for name, tensor in back["final"].items():
        assert np.array_equal(tensor, native["final"][name])
    for name, tensor in back["snapshots"]["pre_switch"].items():
        assert np.array_equal(tensor, native["snapshots"]["before"][name])
    for phase in (0, 1):
        assert np.array_equal(back["sequences"][phase], native["sequences"][phase])
        for key in ("floor", "ceiling"):
            assert back["theory"][phase][key] == pytest.approx(native["theory"][phase][key], abs=1e-12)


def test_pickles_of_a_run_directory_hold(run, capsys):
    assert export_check.main([str(run)]) == 0, capsys.readouterr().out


def test_recorded_weights_give_the_recorded_losses(run, tmp_path):
    exported(run, tmp_path, "--rows", "all_validation")
    (record,) = notebook_example.load_records(str(tmp_path / "record/*/*.pkl"))
    bits = np.concatenate([np.asarray(table) for table in record["sequences"]])
    z, y = notebook_example.one_layer_logits(record["model_state_dict"], bits, 2), bits[:, 1:]
    loss = (np.maximum(z, 0) - y * z + np.log1p(np.exp(-np.abs(z)))).mean(axis=1)
    assert loss == pytest.approx(record["final_test_metrics"]["logsoftmaxloss"], abs=1e-5)
