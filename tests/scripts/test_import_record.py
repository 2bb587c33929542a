"""import_record.py: the same numbers in a run directory, at true ranks; what cannot be mapped is refused."""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys

import mnemo_io
import notebook_record
import numpy as np
import pytest
from notebook_record import BATCH, EPOCH_STEPS, accuracy_of, record, write_tree
from synthetic_run import REPOSITORY

from mnemo import bayes
from mnemo.commands import compare, import_record, plot
from mnemo.records import check, convert, row_rules


def imported(tmp_path, content, sequences, name="run"):
    path = write_tree(tmp_path / "tree", content, sequences)
    convert.import_record(path, tmp_path / name)
    return mnemo_io.read_run(tmp_path / name)


# The round trip -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", [notebook_record.Tensor, lambda array: array])
def test_every_number_comes_back_at_its_true_rank(tmp_path, wrap):
    content, sequences = record("all_phases", wrap=wrap)
    run = imported(tmp_path, content, sequences)
    assert list(run["sets"]) == ["phase_0", "phase_1"]
    for phase in (0, 1):
        columns = run["sets"][f"phase_{phase}"]
        assert columns["rank"].tolist() == list(range(0, 40, 10))
        epochs = columns["step"] // EPOCH_STEPS
        assert epochs.tolist() == list(range(4 * phase, 9))
        expected = [[accuracy_of(phase, rank, epoch) for rank in columns["rank"]] for epoch in epochs]
        assert columns["accuracy"] == pytest.approx(np.array(expected), abs=1e-6)
        assert columns["loss"] == pytest.approx(1 - columns["accuracy"], abs=1e-6)
        assert columns["phase"].tolist() == [int(epoch >= 4) for epoch in epochs]
        for row, epoch in enumerate(epochs):
            known = min(epoch, 3 if phase == 0 else 7)
            assert columns["presentations"][row].tolist() == content["logs"][known]["num_apppearances"][::10].tolist()
    assert run["switches"] == [{"phase": 1, "step": 4 * EPOCH_STEPS}]
    assert run["metrics"]["draws"].tolist() == [EPOCH_STEPS * BATCH * (i + 1) for i in range(8)]
    assert run["metrics"]["train_loss"] == pytest.approx([0.7 - 0.01 * i for i in range(8)])
    assert run["metrics"]["phase"].tolist() == [0] * 4 + [1] * 4
    assert run["config"]["model"] == {
        "kind": "one_layer_attention", "heads": 2, "head_dim": 3, "mlp_layers": 2, "mlp_width": 5,
        "attention_init": "normal",
    }  # fmt: skip
    assert (run["config"]["seed"], run["config"]["group"], run["status"]["state"]) == (3, "demo", "done")
    assert run["meta"]["imported"].endswith("_3.pkl")


def test_settings_and_facts_are_the_records(tmp_path):
    run = imported(tmp_path, *record())
    model = run["facts"]["model"]
    assert (model["kind"], model["task"], model["first_position"]) == ("one_layer_attention", "bits", 1)
    assert model["num_parameters"] == sum(tensor.size for tensor in run["final"].values()) > 0
    assert run["facts"]["chance"] == {"loss": np.log(2), "accuracy": 0.5}
    assert run["facts"]["seeds"] == {"data": 3, "model": 3}
    assert run["facts"]["phases"] == 2
    assert [event["step"] for event in run["config"]["events"]] == [4 * EPOCH_STEPS]
    written = json.loads((run["path"] / "config.yaml").read_text())
    events = [{key: value for key, value in event.items() if key != "step"} for event in run["config"]["events"]]
    assert written == {**run["config"], "events": events}


def test_weights_sequences_and_theory(tmp_path):
    content, sequences = record()
    run = imported(tmp_path, content, sequences)
    assert "pre_attn_ln.weight" not in run["final"]
    assert np.array_equal(run["final"]["wte.weight"], content["token_embedding"])
    before = run["snapshots"]["pre_switch"]
    assert set(before) == {
        "c_attn.weight", "c_attn.bias", "lm_head.weight", "lm_head.bias",
        *(f"linear_modules.{j}.{kind}" for j in range(2) for kind in ("weight", "bias")),
    }  # fmt: skip
    assert np.array_equal(before["c_attn.bias"], content["c_attn_state_dict"]["pre_switch"]["bias"].array)
    for phase in (0, 1):
        bits = sequences["sequences"][phase].array
        assert np.array_equal(run["sequences"][phase], bits)
        assert np.array_equal(run["theory"][phase]["ceiling"], bayes.limits(bits, bayes.zipf(40, 1.0))[1])


@pytest.mark.parametrize(
    ("rule", "sets", "ranks"),
    [("current", ["train"], 4), ("all_ranks", ["train"], 40), ("all_validation", ["phase_0", "phase_1"], 40)],
)
def test_rules_of_rows(tmp_path, rule, sets, ranks):
    content, sequences = record(rule)
    for log in content["logs"]:
        del log["test_metrics"]["true_rank"]  # an old record
    del content["final_test_metrics"]["true_rank"]
    run = imported(tmp_path, content, sequences)
    assert list(run["sets"]) == sets
    last = run["sets"][sets[-1]]
    assert len(last["rank"]) == ranks
    assert last["accuracy"][-1] == pytest.approx([accuracy_of(1, rank, 8) for rank in last["rank"]], abs=1e-6)


def test_all_phases_where_10_does_not_divide_the_number_of_sequences(tmp_path):
    run = imported(tmp_path, *record("all_phases", num_sequences=37))
    assert run["sets"]["phase_0"]["rank"].tolist() == [0, 10, 20, 30]
    assert run["sets"]["phase_1"]["rank"].tolist() == [3, 13, 23, 33]  # 40 - 37, ...
    assert run["sets"]["phase_1"]["accuracy"][-1, 0] == pytest.approx(accuracy_of(1, 3, 8))


def test_logs_without_evaluation_and_runs_without_a_switch(tmp_path):
    content, sequences = record("all_ranks", switches=())
    for epoch in (1, 2, 3, 5):
        content["logs"][epoch]["test_metrics"] = {}
    run = imported(tmp_path, content, sequences)
    assert (run["sets"]["phase_0"]["step"] // EPOCH_STEPS).tolist() == [0, 4, 6, 7, 8]
    assert run["switches"] == []


@pytest.mark.filterwarnings("error")
def test_compare_plot_and_show_understand_it(tmp_path, capsys):
    for rule in ("current", "all_phases"):
        path = write_tree(tmp_path / rule, *record(rule, num_sequences=200))
        folder = tmp_path / f"run_{rule}"
        assert import_record.main([str(path), "--to", str(folder)]) == 0
        said = capsys.readouterr().out
        assert f"results: {folder}" in said and "left out: last_seen" in said
        assert compare.main([str(folder), "--replicates", "20"]) == 0
        assert "ranks 10-99" not in capsys.readouterr().err
        assert plot.main([str(folder)]) == 0
        assert mnemo_io.main([str(folder)]) == 0
        assert "one_layer_attention: 2 heads x 3" in capsys.readouterr().out


def test_laws_are_borne_out_by_the_counts_or_left_out(tmp_path):
    content, sequences = record()
    content["args"]["sequence_sampling_distribution"] = "uniform"
    run = imported(tmp_path, content, sequences)
    assert run["theory"] == {} and "zipf_exponent" not in run["config"]["data"]
    assert any("Bayes" in what for what in run["meta"]["left_out"])


def test_default_place_and_refusal_of_an_existing_directory(tmp_path):
    path = write_tree(tmp_path, *record())
    command = [sys.executable, str(REPOSITORY / "scripts/import_record.py"), str(path)]
    environment = {"PATH": "/usr/bin:/bin", "MNEMO_CACHE": str(tmp_path / "elsewhere")}
    for code in (0, 73):
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
        assert result.returncode == code, result.stderr
    assert (tmp_path / "elsewhere/imported" / path.stem / "config.yaml").is_file()


def test_a_dam_record_gives_its_training_curve(tmp_path, capsys):
    args = argparse.Namespace(N=4, H=2, M=9, K=5, BATCH_SIZE=3, NUM_STEPS=100, eta=10.0, lr=0.01, INIT_STD=0.1,
                              NUM_ITERS_PER_LOG=50)  # fmt: skip
    logs = [{"step": step, "loss": 0.5, "accuracy": np.float32(0.6), "phase": phase}
            for phase in ("train", "eval") for step in (0, 50)]  # fmt: skip
    state = {
        "A_logits": np.zeros((4, 2, 4), np.float32),
        "memory": np.ones((9, 4), np.float32) - 2 * np.eye(9, 4, dtype=np.float32),
    }
    (tmp_path / "dam.pkl").write_bytes(pickle.dumps({"args": args, "logs": logs, "model_state_dict": state}, 4))
    assert import_record.main([str(tmp_path / "dam.pkl"), "--to", str(tmp_path / "dam")]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "single sequences" in said[0] and said[-1] == f"next:    mnemo show {tmp_path / 'dam'}"
    assert "null" not in (tmp_path / "dam/config.yaml").read_text()
    run = mnemo_io.read_run(tmp_path / "dam")
    assert run["metrics"]["step"].tolist() == [50, 100, 150, 200]  # a log is named by its begin, a line by its end
    assert run["metrics"]["draws"].tolist() == [150, 300, 450, 600]
    assert run["config"]["train"] == {"steps": 200, "batch_size": 3, "lr": 0.01, "log_every": 50}
    assert (run["status"]["step"], run["status"]["steps"]) == (200, 200)
    assert run["metrics"]["train_accuracy"] == pytest.approx([0.6] * 4)
    assert run["switches"] == [{"phase": 1, "step": 100}]
    memory = run["snapshots"]["before_switch"]["memory"]
    assert memory.dtype == np.uint8 and np.array_equal(memory, 1 - np.eye(9, 4))
    assert run["config"]["model"]["capacity"] == 9


# Refusals -------------------------------------------------------------------------------------------------------------


def damage(content, sequences, what):
    logs = content["logs"]
    if what == "counts":
        logs[3]["num_apppearances"][0] += 1
    elif what == "rows":
        for key in ("accuracy", "logsoftmaxloss", "true_rank"):
            logs[2]["test_metrics"][key] = logs[2]["test_metrics"][key][:-1]
    elif what == "true ranks":
        logs[2]["test_metrics"]["true_rank"] = logs[2]["test_metrics"]["true_rank"] + 1
    elif what == "arch":
        content["args"]["arch"] = "lstm"
    elif what == "empty":
        content["logs"] = []
    elif what == "missing":
        del content["args"]["K"]
    elif what == "losses":
        logs[1]["test_metrics"]["logsoftmaxloss"] -= 5
    elif what == "phases":
        sequences["switch_start_iter"][1] = [3] * 40
    elif what == "bits":
        sequences["sequences"][0].array[0, 0] = 2
    elif what == "unevaluated":
        for log in logs:
            log["test_metrics"] = {}
        content["final_test_metrics"] = {}


@pytest.mark.parametrize(
    ("what", "said"),
    [("counts", "logs.3..num_apppearances"), ("rows", "no rule of pickle_rows"), ("true ranks", "no rule"),
     ("arch", "arch must be one of"), ("empty", "logs: is empty"), ("missing", "args: K must be int"),
     ("losses", "loss below 0"), ("phases", "phases begin at epochs"), ("bits", r"sequences.0. must be"),
     ("unevaluated", "nothing to compare")],
)  # fmt: skip
def test_what_cannot_be_mapped_is_refused_and_nothing_is_left(tmp_path, what, said):
    content, sequences = record()
    damage(content, sequences, what)
    path = tmp_path / "run.pkl"
    path.write_bytes(notebook_record.pickled(content))
    (tmp_path / "run_sequences.pkl").write_bytes(notebook_record.pickled(sequences))
    with pytest.raises(ValueError, match=said):
        convert.import_record(path, tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.pkl", "run_sequences.pkl"]


def test_a_sequences_file_names_its_record(tmp_path):
    content, sequences = record()
    path = write_tree(tmp_path, content, None)
    beside = path.with_name(f"{path.stem}_all_sequences.pkl")  # as the original wrote it, and a run directory has it
    beside.write_bytes(notebook_record.pickled(sequences))
    with pytest.raises(ValueError, match=f"is the sequences file of a record; import the record itself, {path.name}"):
        convert.import_record(beside, tmp_path / "out")


def test_strange_objects_are_refused(tmp_path):
    for value in ([], 3, {"args": 3}, {"args": {}, "logs": [3]}, {"args": argparse.Namespace(), "logs": []}):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(value, 4))
        with pytest.raises(ValueError, match="x.pkl: "):
            convert.import_record(tmp_path / "x.pkl", tmp_path / "out")


# Rows and limits ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", row_rules.RULES)
@pytest.mark.parametrize("phase", [0, 1, 2])
def test_rows_are_those_of_the_list_spelled_out(rule, phase):
    of_phase, rank = row_rules.rows(rule, 37, phase)
    assert list(zip(of_phase.tolist(), rank.tolist())) == notebook_record.rows_of(rule, 37, phase)


def test_bayes_limits_agree_with_a_loop_over_prefixes():
    generator = np.random.default_rng(1)
    bits, p = generator.integers(0, 2, (12, 5)), bayes.zipf(12, 1.0)
    bits[7] = bits[2]  # a duplicate
    loss, right = np.zeros(12), np.zeros(12)
    for k in range(12):
        for n in range(1, 5):
            same = (bits[:, :n] == bits[k, :n]).all(axis=1)
            chosen = p[same & (bits[:, n] == bits[k, n])].sum() / p[same].sum()
            loss[k] -= np.log(chosen) / 4
            right[k] += (0.5 if abs(chosen - 0.5) < 1e-12 else float(chosen > 0.5)) / 4
    floor, ceiling = bayes.limits(bits, p)
    assert floor == pytest.approx(loss, abs=1e-12)
    assert ceiling == pytest.approx(right, abs=1e-12)


def places(value, path=()):
    """Every key and index in a nested record, by its path."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


JUNK = (None, [], {}, "x", -1, 1.5, float("nan"), True, np.zeros(3), np.array(np.inf), np.zeros((2, 2), int), [[1]])


@pytest.mark.filterwarnings("error")
def test_junk_in_any_field_is_refused_or_harmless_never_an_accident(tmp_path):
    generator = np.random.default_rng(0)
    paths = list(places(record(epochs=3, switches=(2,))[0]))
    for path in paths:
        for junk in (JUNK[index] for index in generator.choice(len(JUNK), 3, replace=False)):
            content, sequences = record(epochs=3, switches=(2,), wrap=lambda array: array)
            target = content
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = junk
            broken = list(check.check_record(content))
            list(check.check_sequences(sequences, None if broken else content))
            try:
                convert.Transformer(content, sequences)
                convert.snapshots_of(content)
                convert.config_of(convert.Transformer(content, sequences), "x")
            except ValueError:
                pass
