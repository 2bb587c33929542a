"""export_check.py: sound records hold, and each broken field is named."""

from __future__ import annotations

import pickle

import notebook_record
import numpy as np
import pytest
from notebook_record import Tensor, record, write_tree

from mnemo.commands import export_check


@pytest.mark.parametrize("rule", ["current", "all_phases", "all_validation", "all_ranks"])
@pytest.mark.parametrize("switches", [(), (4,), (2, 4, 6)])
@pytest.mark.parametrize("wrap", [Tensor, lambda array: array])
def test_sound_records_hold(tmp_path, capsys, rule, switches, wrap):
    write_tree(tmp_path, *record(rule, switches=switches, wrap=wrap))
    assert export_check.main([str(tmp_path)]) == 0, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "2 of 2 files hold" in said and "record of 8 epochs" in said


def test_flat_trees_and_run_directories(tmp_path):
    content, sequences = record()
    path = write_tree(tmp_path / "tree", content, None)
    path.rename(path.parent.parent / path.name)
    path.parent.rmdir()
    assert export_check.main([str(tmp_path / "tree")]) == 0
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("name: run\n")
    (run / "run.pkl").write_bytes(notebook_record.pickled(content))
    (run / "run_sequences.pkl").write_bytes(notebook_record.pickled(sequences))
    assert export_check.main([str(run)]) == 0


def change(*path, to):
    """A function that sets content[path[0]][path[1]]... to a value (or deletes it)."""

    def apply(content):
        for key in path[:-1]:
            content = content[key]
        if to is None:
            del content[path[-1]]
        else:
            content[path[-1]] = to(content[path[-1]])

    return apply


LOG, METRICS = ("logs", 3), ("logs", 3, "test_metrics")
BROKEN = {
    "args.K: is missing": change("args", "K", to=None),
    "args.lr: must be float": change("args", "lr", to=str),
    "args.is_probe: must be one of": change("args", "is_probe", to=lambda _: "no"),
    "args.vocab_size: must be one of 2": change("args", "vocab_size", to=lambda _: 3),
    "args.is_resample_tasks: is 'False'": change("args", "is_resample_tasks", to=lambda _: "False"),
    "logs: must be a list, an entry for each 50 of args.num_iters": change("args", "num_iters", to=lambda n: n + 50),
    "logs[3].epoch: must be 3": change(*LOG, "epoch", to=lambda n: n + 1),
    "logs[3].train_loss: must be a finite float": change(*LOG, "train_loss", to=lambda _: float("nan")),
    "logs[3].appearances: must be a list": change(*LOG, "appearances", to=None),
    "logs[3].num_apppearances: must be float64": change(*LOG, "num_apppearances", to=lambda a: a.astype(np.int64)),
    "logs[3].num_apppearances: sums to": change(*LOG, "num_apppearances", to=lambda a: a + 1),
    "a count falls within a phase": change(*LOG, "num_apppearances", to=lambda a: np.roll(a, 1)),
    "logs[3].test_metrics.accuracy: must be float32": change(*METRICS, "accuracy", to=lambda a: a.astype(float)),
    "logs[3].test_metrics.accuracy: outside": change(*METRICS, "accuracy", to=lambda a: a + 1),
    "logs[3].test_metrics.logsoftmaxloss: below 0": change(*METRICS, "logsoftmaxloss", to=lambda a: a - 5),
    "logs[3].test_metrics.logsoftmaxloss: must be": change(*METRICS, "logsoftmaxloss", to=lambda a: a[1:]),
    "logs[3].test_metrics.sequence_rank: must be the row": change(*METRICS, "sequence_rank", to=lambda a: a * 10),
    "logs[3].test_metrics.length: must be": change(*METRICS, "length", to=lambda n: n + 1),
    "test_metrics: no rule of pickle_rows": change(*METRICS, "true_rank", to=lambda a: a + 1),
    "final_test_metrics: is missing": change("final_test_metrics", to=None),
    "model.lm_head.bias: is missing": lambda content: content["model"].pop("lm_head.bias"),
    "model.extra: a strict loader": lambda content: content["model"].update(extra=content["model"]["lm_head.bias"]),
    "model.lm_head.bias: must be float32": change("model", "lm_head.bias", to=lambda t: Tensor(t.array[:1])),
    "model.lm_head.bias: holds numbers": change("model", "lm_head.bias", to=lambda t: Tensor(t.array * np.inf)),
    "some values are torch tensors": change("model", "lm_head.bias", to=lambda t: t.array),
    "mlp_state_dict.pre_switch.lm_head.bias: is missing": change(
        "mlp_state_dict", "pre_switch", "lm_head", "bias", to=None
    ),
    "c_attn_state_dict.pre_switch.weight: must be": change(
        "c_attn_state_dict", "pre_switch", "weight", to=lambda t: Tensor(t.array.T)
    ),
    "positional_encoding: must be": change("positional_encoding", to=lambda a: a.T),
    "token_embedding: must be a NumPy array": change("token_embedding", to=Tensor),
    "must lie in a folder other": change("args", "wandb_group_name", to=lambda _: "other"),
    "the name must be demo_transformer": change("args", "seed", to=lambda n: n + 1),
    "probe_metrics.accuracy: must be": lambda content: content["logs"][3].update(probe_metrics={"accuracy": [0.5]}),
}  # fmt: skip


@pytest.mark.parametrize("said", BROKEN)
def test_each_broken_field_is_named(tmp_path, capsys, said):
    content, _ = record()
    BROKEN[said](content)
    path = write_tree(tmp_path, {**record()[0], "args": {**record()[0]["args"]}}, None)
    path.write_bytes(notebook_record.pickled(content))
    assert export_check.main([str(tmp_path)]) == 65
    assert said in capsys.readouterr().out


@pytest.mark.parametrize(
    ("said", "apply"),
    [("sequences[1]: must be int64", change("sequences", 1, to=lambda t: Tensor(t.array.astype(np.uint8)))),
     ("sequences[0]: holds something else", change("sequences", 0, to=lambda t: Tensor(t.array * 2))),
     ("switch_start_iter[1]: must be 40 int", change("switch_start_iter", 1, to=lambda a: a[1:])),
     ("switch_start_iter[1]: must be one epoch", change("switch_start_iter", 1, to=lambda a: [5, *a[1:]])),
     ("phases begin at epochs [0, 4]", change("switch_start_iter", 1, to=lambda a: [3] * len(a))),
     ("must hold the lists", change("sequences", to=None)),
     ("the record says K = 40", change("sequences", to=lambda a: [Tensor(t.array[:, 1:]) for t in a]))],
)  # fmt: skip
def test_broken_sequences_are_named(tmp_path, capsys, said, apply):
    content, sequences = record()
    apply(sequences)
    write_tree(tmp_path, content, sequences)
    assert export_check.main([str(tmp_path)]) == 65
    assert said in capsys.readouterr().out


def test_protocol_names_and_neighbours(tmp_path, capsys):
    content, _ = record(wrap=lambda array: array)
    path = write_tree(tmp_path, content, None)
    path.write_bytes(pickle.dumps(content, 2))
    (path.parent / "figure.png").touch()
    assert export_check.main([str(tmp_path)]) == 65
    said = capsys.readouterr().out
    assert "must be a pickle of protocol 4" in said
    assert "uses the name _codecs.encode" in said
    assert "other files lie beside it, which globs would find: figure.png" in said


def test_unreadable_and_empty(tmp_path, capsys):
    (tmp_path / "x.pkl").write_bytes(b"cos\nsystem\n.")
    assert export_check.main([str(tmp_path)]) == 65
    assert "unreadable" in capsys.readouterr().out
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no .pkl"):
        export_check.main([str(tmp_path / "empty")])


# What passed, and drew wrong figures or stopped a cell ----------------------------------------------------------------


def logs(key, to):
    """A change of one key in every log."""
    return lambda content: [change(key, to=to)(log) for log in content["logs"]]


def metrics(key, to):
    return lambda content: [change("test_metrics", key, to=to)(log) for log in content["logs"]]


def untrained(content):
    """A snapshot of step 0: all biases are 0."""
    for parts in (*content["mlp_state_dict"]["pre_switch"].values(), content["c_attn_state_dict"]["pre_switch"]):
        parts.update({name: Tensor(0 * t.array) for name, t in parts.items() if name.endswith("bias")})


def bars(positions):
    padded = np.full((notebook_record.HEADS, *positions), np.nan, np.float32)
    return lambda content: [log["test_metrics"].update(vertical_bars_metric=padded) for log in content["logs"]]


def used_means(content):
    for log in content["logs"]:
        log["A_logits_mean"] = Tensor(np.float32([np.nan, 1, 2, 3, 4]))


SPOILT = [  # what it is called, the record, what is done to it
    ("logs[0].test_metrics.mlp_probe_metrics: is missing; cells", {}, metrics("mlp_probe_metrics", None)),
    ("logs[7].test_metrics.probe_novel_sequences_3: is missing", {}, metrics("probe_novel_sequences_3", None)),
    ("mlp_probe_metrics: must hold the arrays layer, accuracy", {},
     change(*METRICS, "mlp_probe_metrics", to=lambda probe: {name: a[:3] for name, a in probe.items()})),
    ("probe_novel_sequences_0: must be a float, or", {}, change(*METRICS, "probe_novel_sequences_0", to=np.array)),
    ("logs[3].probe_metrics: is missing; cells of fork probes", {}, change(*LOG, "probe_metrics", to=None)),
    ("probe_metrics.num_iters_required: must be an index", {},
     change(*LOG, "probe_metrics", "num_iters_required", to=lambda _: 0)),
    ("mlp_state_dict.pre_switch: is of step 0, but model_0 is missing", {}, untrained),
    ("logs[0].test_metrics.vertical_bars_metric: must be left out", {"rule": "all_ranks"}, bars((2, 2))),
    ("vertical_bars_metric: must be left out", {"rule": "all_ranks", "switches": ()}, bars((2, 2))),
    ("vertical_bars_metric: must be float32 (2, 2, 2), is float32 (2, 20, 20); cells", {}, bars((20, 20))),
    ("logs: must be a list, an entry for each 50", {}, change("args", "num_iters", to=lambda n: n // 50)),
    ("logs[3].test_metrics: is empty; cells read", {}, change(*LOG, "test_metrics", to=lambda _: {})),
]  # fmt: skip


@pytest.mark.parametrize(("said", "options", "apply"), SPOILT, ids=[said for said, *_ in SPOILT])
def test_a_spoilt_record_is_named_with_what_it_costs(tmp_path, capsys, said, options, apply):
    content, sequences = record(**options)
    apply(content)
    write_tree(tmp_path, content, sequences)
    assert export_check.main([str(tmp_path)]) == 65
    assert said in capsys.readouterr().out


def test_rows_are_those_that_the_cells_of_the_group_take(tmp_path, capsys):
    for group, rule, code in (("x_doresample", "current", 0), ("x_doresample", "all_phases", 65),
                              ("x_swapmlp_eval", "all_phases", 0), ("x_swapmlp_eval", "current", 65)):  # fmt: skip
        content, sequences = record(rule)
        content["args"]["wandb_group_name"] = group
        path = write_tree(tmp_path / f"{group}_{rule}", content, sequences)
        for file in path.parent.iterdir():
            file.rename(file.with_name(file.name.replace("demo_transformer", f"{group}_transformer")))
        path.parent.rename(path.parent.with_name(path.parent.name.replace("demo_", f"{group}_", 1)))
        assert export_check.main([str(tmp_path / f"{group}_{rule}")]) == code, capsys.readouterr().out
    assert "take all_phases: export it with --rows all_phases" in capsys.readouterr().out


def test_whichever_file_a_glob_gives_first_is_the_record(tmp_path, capsys):
    content, sequences = record()
    path = write_tree(tmp_path, content, sequences)
    other = path.with_name(f"{path.stem}_all_sequences.pkl")
    other.unlink()
    other.write_bytes(path.read_bytes())  # a copy, where there are no links
    assert export_check.main([str(tmp_path)]) == 0
    assert "(the record under its other name)" in capsys.readouterr().out
    other.write_bytes(notebook_record.pickled(sequences))
    assert export_check.main([str(tmp_path)]) == 65
    assert f"is another pickle than {path.name}; cells that take the first file of a folder skip" in (
        capsys.readouterr().out
    )
    other.unlink()
    (path.parent / "a.pkl").write_bytes(path.read_bytes())
    assert export_check.main([str(tmp_path)]) == 65
    assert "other files lie beside it, which globs would find: a.pkl" in capsys.readouterr().out


def test_weights_of_single_epochs_are_those_of_the_record(tmp_path, capsys):
    content, sequences = record()
    content["model_2"] = dict(content["model"])
    path = write_tree(tmp_path, content, sequences)
    beside = path.with_name(f"{path.stem}_model_iter_2.pkl")
    beside.write_bytes(notebook_record.pickled(content["model_2"]))
    assert export_check.main([str(tmp_path)]) == 0
    assert "weights of one epoch; cells that open any file" in capsys.readouterr().out
    beside.rename(path.with_name(f"{path.stem}_model_iter_3.pkl"))
    assert export_check.main([str(tmp_path)]) == 65
    assert "the record has no model_3" in capsys.readouterr().out


VECTOR = Tensor(np.ones(5, np.float32))
DAM_SPOILT = [
    ("logs[0].A_logits_mean: must be a torch tensor (5,); cells stack", logs("A_logits_mean", lambda t: t.array)),
    ("logs[5].A_correlation_offdiag_mean: must be a torch", logs("A_correlation_offdiag_mean", lambda t: t.array)),
    ("logs[0].A_sharpness: must be a number; cells plot", logs("A_sharpness", lambda _: VECTOR)),
    ("logs[0].A_sharpness: must be a number", logs("A_sharpness", None)),
    ("logs[0].B_logits_mean_mean: must be a number", logs("B_logits_mean_mean", None)),
    ("logs[0].A_logits_mean: has no mean of the raw logits at each place", used_means),
    ("logs[2].A_logits_mean: is none of the raw logits over all 5",
     logs("A_logits_mean", lambda t: Tensor(t.array / 2))),
    ("logs[2].A_correlation_offdiag_mean: is none of the raw logits",
     logs("A_correlation_offdiag_mean", lambda t: Tensor(t.array * np.float32(0.9)))),
    ("args.NUM_ITERS_PER_LOG: is 100; cells of figure 9 take the number of a log for the step",
     lambda content: vars(content["args"]).update(NUM_ITERS_PER_LOG=100)),
    ("args.is_freeze_A: must be one of 'True'", lambda content: vars(content["args"]).update(is_freeze_A="FreezeB")),
    ("logs[1].accuracy: must be", lambda content: content["logs"].__setitem__(1, {})),
    ("logs[1].loss: must be", lambda content: content["logs"].__setitem__(1, {})),
    ("model_state_dict.A_logits: must be float32 (5, 4, 5)", lambda content: vars(content["args"]).update(H=4)),
]  # fmt: skip


@pytest.mark.parametrize(("said", "apply"), DAM_SPOILT, ids=[said for said, _ in DAM_SPOILT])
def test_a_spoilt_dam_record_is_named(tmp_path, capsys, said, apply):
    content = notebook_record.dam_record()
    apply(content)
    notebook_record.write_dam(tmp_path, content)
    assert export_check.main([str(tmp_path)]) == 65
    assert said in capsys.readouterr().out


@pytest.mark.parametrize("retrieval", [False, True])
def test_a_sound_dam_record_holds_and_is_alone(tmp_path, capsys, retrieval):
    content = notebook_record.dam_record(retrieval)
    path = notebook_record.write_dam(tmp_path, content)
    assert export_check.main([str(tmp_path)]) == 0, capsys.readouterr().out
    assert f"torch.load({str(path)!r}, weights_only=False) loads it" in capsys.readouterr().out
    (path.parent / "notes.txt").touch()
    assert export_check.main([str(tmp_path)]) == 65
    assert "other files lie beside it, which globs would find: notes.txt" in capsys.readouterr().out


def test_retrieval_is_known_by_its_word(tmp_path, capsys):
    content = notebook_record.dam_record(retrieval=True)
    content["args"].is_freeze_A = "False"
    notebook_record.write_dam(tmp_path, content)
    assert export_check.main([str(tmp_path)]) == 65
    assert "cells know retrieval (the memory is the K sequences) by 'BothAB'" in capsys.readouterr().out
