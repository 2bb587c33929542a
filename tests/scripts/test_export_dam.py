"""export_dam.py: the record of a synthetic DAM run, its words, and what it says when the run lacks something."""

from __future__ import annotations

import json
import pickle
import sys

import mnemo_io

from mnemo.commands import export_check, export_dam  # isort: skip
from mnemo.records import convert, dam, pickles  # isort: skip
import numpy as np
import pytest
from synthetic_run import safetensors_bytes, write_settings

N, H, M, K, STEPS, SWITCH, LOG_EVERY = 5, 2, 7, 4, 90, 50, 20
SNAPSHOT = {"kind": "snapshot", "at": SWITCH, "every": None, "name": "before", "snapshot": "before"}
SWITCHING = {"kind": "switch", "at": SWITCH, "every": None, "name": "switch", "reset_optimizer": False}
LINES = [20, 40, 60, 80, 90]  # the third begins before the switch


def freeze(*parameters, kind="freeze", at=SWITCH, **more):
    """As run.json has it: the names of A and B, which groups and patterns stand for."""
    names = [f"{name}_logits" for name in parameters]
    return {"kind": kind, "at": at, "every": None, "name": kind, "parameters": names, **more}


def timed(event):
    """With the steps that run.json gives beside the settings."""
    if event["every"]:
        return {**event, "first": event["every"], "last": (STEPS - 1) // event["every"] * event["every"]}
    return {**event, "step": event["at"]}


def weights(seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        "A_logits": generator.normal(size=(N, H, N)).astype(np.float32),
        "B_logits": generator.normal(size=(H, N)).astype(np.float32),
        "memory": generator.integers(0, 2, (M, N)).astype(np.uint8),
    }


@pytest.fixture
def write(tmp_path):
    """A function that writes a DAM's run directory with these events and reads it."""

    def write(*events, **model):
        run = tmp_path / "run"
        config = {
            "name": "demo", "group": "demo", "run": "demo", "data": {"num_sequences": K, "length": N},
            "model": {"kind": "dam", "heads": H, "capacity": M, "eta": 10, "init_std": 0.1, **model},
            "train": {"steps": STEPS, "batch_size": 3, "lr": 0.01, "log_every": LOG_EVERY},
            "events": [timed(event) for event in events],
        }  # fmt: skip
        for folder in ("snapshots", "measures", "sequences"):
            (run / folder).mkdir(parents=True)
        task = "sequences" if model.get("objective") == "retrieval" else "bits"
        write_settings(run, config, task=task, has_memory=task == "bits")
        (run / "meta.json").write_text('{"device": "cuda:0"}')
        switched = any(event["kind"] == "switch" for event in events)
        (run / "switches.json").write_text(json.dumps([{"phase": 1, "step": SWITCH}] if switched else []))
        lines = [{"step": step, "phase": int(switched and step > SWITCH), "draws": 3 * step, "train_loss": step / 100,
                  "train_accuracy": step / 200, "lr": 0.01, "A_sharpness": step / 400} for step in LINES]  # fmt: skip
        (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        np.save(run / "measures/step.npy", np.array(LINES))
        for index, name in enumerate(dam.MEASURES.values()):
            rows = np.arange(len(LINES) * N, dtype=np.float32).reshape(-1, N) + 100 * index
            rows[:, 0] = np.nan if "correlation" in name else rows[:, 0]
            np.save(run / f"measures/{name}.npy", rows)
        np.save(run / "sequences/phase_0.npy", np.eye(K, N, dtype=np.uint8))
        (run / "final.safetensors").write_bytes(safetensors_bytes(weights(1)))
        for event in events:
            if event["kind"] == "snapshot":
                tensors = weights(0) if model.get("objective") != "retrieval" else {**weights(0), "memory": None}
                tensors = {name: tensor for name, tensor in tensors.items() if tensor is not None}
                name = f"{event['name']}_{SWITCH}" if event["every"] else event["name"]
                (run / f"snapshots/{name}.safetensors").write_bytes(safetensors_bytes(tensors))
        return mnemo_io.read_run(run)

    return write


def test_logs_restart_with_the_phase_and_hold_the_runs_numbers(write):
    logs = dam.record_of(write(SNAPSHOT, SWITCHING), "dam_demo")["logs"]
    assert [(log["phase"], log["step"]) for log in logs] == [
        ("train", 0), ("train", 20), ("eval", 0), ("eval", 10), ("eval", 30),
    ]  # fmt: skip
    assert [log["loss"] for log in logs] == [step / 100 for step in LINES]
    assert all(log["accuracy"] == np.float32(step / 200) for log, step in zip(logs, LINES))
    assert isinstance(logs[0]["accuracy"], np.float32)
    assert logs[1]["B_logits_mean"].tolist() == [105, 106, 107, 108, 109] and logs[1]["B_logits_mean_mean"] == 107
    correlation = np.float32([np.nan, 206, 207, 208, 209])
    assert np.array_equal(logs[1]["A_correlation_offdiag_mean"], correlation, equal_nan=True)
    assert logs[1]["A_correlation_offdiag_mean_mean"] == 207.5
    assert [log["A_sharpness"] for log in logs] == [np.float32(step / 400) for step in LINES]
    assert isinstance(logs[0]["A_sharpness"], np.float32)


def test_args_and_weights_are_those_of_the_first_phase(write):
    record = dam.record_of(write(SNAPSHOT, SWITCHING), "dam_demo")
    assert vars(record["args"]) == {
        "eta": 10.0, "lr": 0.01, "INIT_STD": 0.1, "N": N, "H": H, "M": M, "K": K, "BATCH_SIZE": 3, "NUM_STEPS": SWITCH,
        "NUM_ITERS_PER_LOG": LOG_EVERY, "savedir": "demo", "prefix": "dam_demo", "is_freeze_A": "LearnAB",
        "device": "cuda:0",
    }  # fmt: skip
    state, snapshot = record["model_state_dict"], weights(0)
    assert np.array_equal(state["A_logits"], snapshot["A_logits"])
    assert np.array_equal(state["B_logits"], snapshot["B_logits"])
    assert np.array_equal(state["memory"], np.where(snapshot["memory"] == 1, np.float32(1), np.float32(-1)))


def test_without_a_switch_all_is_train_and_the_weights_are_the_last(write):
    record = dam.record_of(write(freeze("A", at=0)), "dam_demo")
    assert {log["phase"] for log in record["logs"]} == {"train"}
    assert [log["step"] for log in record["logs"]] == [0, *LINES[:-1]]
    assert np.array_equal(record["model_state_dict"]["A_logits"], weights(1)["A_logits"])
    assert record["args"].NUM_STEPS == STEPS and record["args"].is_freeze_A == "True"


def test_the_memory_of_retrieval_is_the_first_sequences(write):
    record = dam.record_of(write(SNAPSHOT, SWITCHING, objective="retrieval"), "dam_demo")
    assert np.array_equal(record["model_state_dict"]["memory"], 2 * np.eye(K, N, dtype=np.float32) - 1)
    assert record["args"].M == K


def test_retrieval_with_both_frozen_has_a_word_of_its_own(write):
    run = write(SNAPSHOT, SWITCHING, freeze("A", "B"), objective="retrieval")
    assert dam.record_of(run, "dam_demo")["args"].is_freeze_A == "BothAB"


@pytest.mark.parametrize(
    ("events", "word", "remark"),
    [([freeze("A"), {**SWITCHING, "reset_optimizer": True}], "True", None),
     ([freeze("A")], "True", "went on with the Adam it had"),
     ([freeze("A"), freeze("B", kind="unfreeze", reset_optimizer=True)], "True", None),
     ([freeze("A", reset_optimizer=True)], "True", "went on"),
     ([freeze("A", "B")], "False", None),
     ([freeze("A", at=10), freeze("B")], "False", None),
     ([freeze("A", "B", at=9), freeze("A", "B", kind="unfreeze")], "LearnAB", None),
     ([freeze("A", at=STEPS)], "LearnAB", None),
     ([freeze("B")], "FreezeB", "no word"),
     ([{**freeze("A", at=None), "every": 20}, freeze("A", kind="unfreeze", at=30)], "True", "went on"),
     ([{**freeze("A", at=None), "every": 60}], "LearnAB", None)],
)  # fmt: skip
def test_is_freeze_a_says_what_stands_still_in_the_second_phase(write, events, word, remark):
    switch = [] if any(event["kind"] == "switch" for event in events) else [SWITCHING]
    run = write(SNAPSHOT, *switch, *events)
    args = dam.record_of(run, "dam_demo")["args"]
    assert args.is_freeze_A == word
    every, *said = dam.remarks(run, args)
    assert "a log every 20 steps" in every and "log_every: 1" in every
    assert [remark in sentence for sentence in said] == ([True] if remark else [])


def test_a_repeated_snapshot_serves(write):
    run = write({**SNAPSHOT, "at": None, "every": 25, "snapshot": "before_{step}"}, SWITCHING)
    assert np.array_equal(dam.record_of(run, "dam_demo")["model_state_dict"]["B_logits"], weights(0)["B_logits"])


LACKS = {
    "put {kind: snapshot, at: 50} before the switch": ([SWITCHING], None),
    "no snapshot of the end of the first phase": ([{**SNAPSHOT, "at": 40}, SWITCHING], None),
    "whose weights and memory": ([SWITCHING, SNAPSHOT], None),
    "has no measures of A and B.*A_raw_logits_mean.npy is missing": (
        [SNAPSHOT, SWITCHING], "measures/A_raw_logits_mean.npy"
    ),
    "is not over": ([], "final.safetensors"),
}  # fmt: skip


@pytest.mark.parametrize("said", LACKS)
def test_what_a_run_lacks_is_said(write, said):
    events, missing = LACKS[said]
    path = write(*events)["path"]
    if missing:
        (path / missing).unlink()
    with pytest.raises(ValueError, match=said.replace("{", "[{]")):
        dam.record_of(mnemo_io.read_run(path), "dam_demo")


def test_damaged_and_foreign_runs_are_refused(write):
    run = write(SNAPSHOT, SWITCHING)
    np.save(run["path"] / "measures/B_logits_mean.npy", np.zeros((3, N), np.float32))
    with pytest.raises(ValueError, match="B_logits_mean.npy: must be"):
        dam.record_of(run, "dam_demo")
    np.save(run["path"] / "measures/step.npy", np.array(LINES) + 1)
    with pytest.raises(ValueError, match="not those of metrics.jsonl"):
        dam.record_of(run, "dam_demo")
    del run["snapshots"]["before"]["memory"]
    with pytest.raises(ValueError, match="memory at the end of the first phase was not kept"):
        dam.model_state(run, run["snapshots"]["before"])
    with pytest.raises(ValueError, match=r"no A_logits \(5, 2, 5\)"):
        dam.model_state(run, {"A_logits": np.zeros((5, 3, 5))})
    run["config"]["model"]["kind"] = "prefix_readout"
    with pytest.raises(ValueError, match="is a run of prefix_readout"):
        dam.record_of(run, "dam_demo")


def test_the_archive_is_what_torch_loads(write, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    run, path = write(SNAPSHOT, SWITCHING, freeze("A")), tmp_path / "out/demo/dam_demo.pt"
    assert export_dam.main([str(run["path"]), str(path)]) == 0
    told = capsys.readouterr()
    assert told.out == f"{path}\n" and f"note: {run['path']}: is_freeze_A is 'True', but" in told.err
    call = told.err.splitlines()[-1].removeprefix("load it with ")
    assert call == f"torch.load({str(path)!r}, weights_only=False)"
    assert export_check.main([str(tmp_path / "out")]) == 65
    said = capsys.readouterr().out
    assert call in said and said.count("\n       ") == 1 and "NUM_ITERS_PER_LOG: is 20; cells of figure 9" in said
    with pytest.raises(pickle.UnpicklingError, match="Namespace"):  # what torch does with it by default
        torch.load(path)
    assert eval(call, {"torch": torch})["args"].H == H  # the printed call, as pasted
    loaded, read = torch.load(path, weights_only=False), pickles.read_record(path)
    expected = dam.record_of(run, "dam_demo")
    assert loaded["args"] == read["args"] == expected["args"]
    for name, array in expected["model_state_dict"].items():
        assert torch.equal(loaded["model_state_dict"][name], torch.from_numpy(array)), name
        assert np.array_equal(read["model_state_dict"][name], array), name
    for ours, theirs, again in zip(expected["logs"], loaded["logs"], read["logs"]):
        assert list(ours) == list(theirs) == list(again)
        assert [name for name, value in theirs.items() if isinstance(value, torch.Tensor)] == list(dam.MEASURES)
        assert all(np.array_equal(ours[key], log[key], equal_nan=True) for log in (theirs, again) for key in ours
                   if key != "phase")  # fmt: skip
    before = path.read_bytes()
    assert export_dam.main([str(run["path"]), str(path)]) == 0 and path.read_bytes() == before


def test_an_imported_record_has_the_steps_of_its_run(write, tmp_path):
    run = write({**SNAPSHOT, "at": 40}, {**SWITCHING, "at": 40})
    run = run.replace(switches=[{"phase": 1, "step": 40}])
    (tmp_path / "dam").mkdir()
    convert.write_dam(dam.record_of(run, "dam_demo"), tmp_path / "dam", "dam")
    again = mnemo_io.read_run(tmp_path / "dam")
    assert again["metrics"]["step"].tolist() == [*LINES[:-1], 100]  # the record does not say that the last was shorter


def test_usage_and_a_python_without_torch(write, tmp_path, capsys, monkeypatch):
    assert export_dam.main(["one"]) == 64
    monkeypatch.setitem(sys.modules, "torch", None)
    assert export_dam.main([str(write()["path"]), str(tmp_path / "dam.pt")]) == 73
    assert "torch is not installed" in capsys.readouterr().err
    assert not (tmp_path / "dam.pt").exists()
