"""export_check.py: sound records hold, and each broken field is named."""

from __future__ import annotations

import argparse
import io
import pickle
import zipfile

import export_check
import notebook_record
import numpy as np
import pytest
from notebook_record import Tensor, record, write_tree


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
    "logs: must be a list of args.num_iters": change("args", "num_iters", to=lambda n: n + 1),
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


def test_a_dam_record(tmp_path, capsys):
    names = {name: 1 for name in export_check.DAM_ARGS}
    rows = {name: np.zeros(4) for name in ("A_sharpness", *export_check.DAM_ROWS)}
    logs = [{"step": 0, "phase": "train", "loss": 0.7, "accuracy": np.float32(0.5), **rows}]
    state = {"A_logits": np.zeros((4, 2, 4), np.float32), "B_logits": np.zeros((2, 4), np.float32),
             "memory": np.zeros((9, 4), np.float32)}  # fmt: skip
    for heads, code in ((2, 0), (3, 65)):
        content = {"args": argparse.Namespace(**{**names, "N": 4, "H": heads}), "logs": logs, "model_state_dict": state}
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(content, 2))
        (tmp_path / "dam_0.pt").write_bytes(file.getvalue())
        assert export_check.main([str(tmp_path)]) == code, capsys.readouterr().out
        logs.append({})
    said = capsys.readouterr().out
    assert "model_state_dict.A_logits: must be float32 (4, 3, 4)" in said
    for field in ("accuracy", "loss", *rows):
        assert f"logs[1].{field}: must be" in said
