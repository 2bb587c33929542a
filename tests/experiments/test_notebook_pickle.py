"""The pickles of a run, against NOTEBOOKS 1-4 and its native files: what notebooks load is what the run wrote."""

from __future__ import annotations

import json
import math
import os
import pickle
import pickletools
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import BINARY, CONFIG, DATA, DONE, REPOSITORY, STOPPED, USAGE, call, mnemo_io, results, start, wait_for

K, L, STEPS, SWITCH, EPOCH, BATCH = 40, 9, 200, 100, 20, 8
CONFIG_TEXT = """\
name: noted
seed: 3
threads: 1
device: cpu
data:  {{num_sequences: {K}, length: {L}}}
model: {{kind: one_layer_attention, heads: 2, head_dim: 4, mlp_layers: 3, mlp_width: 12}}
train: {{steps: {STEPS}, batch_size: {BATCH}, lr: 1.0e-2, log_every: 5}}
eval:  {{every: 20, novel: 8}}
events:
  - {{kind: snapshot, every: 30, name: often}}
  - {{kind: snapshot, at: 60, name: early}}
  - {{kind: snapshot, at: {SWITCH}, name: before}}
  - {{kind: switch, at: {SWITCH}}}
  - {{kind: snapshot, at: 0, name: start}}
"""
ARGS = {
    "wandb_group_name": "noted", "len_context": L, "K": K, "vocab_size": 2, "num_heads": 2, "num_layers": 1,
    "num_hidden_features": 4, "num_hidden_features_mlp": 12, "num_mlp_layers": 3, "lr": 1e-2,
    "arch": "OneLayerAttention", "num_iters": STEPS, "num_iters_per_epoch": EPOCH, "batch_size": BATCH,
    "seed": 3, "is_resample_tasks": "True", "is_initialize_attention_weights_to_zero": "False",
    "is_probe": "False", "probe_every_iter": 0, "sequence_sampling_distribution": "zipf",
    "fileprefix": f"noted_transformer_K_{K}_L_{L}_hidden_4_nheads_2_nlayers_1_3",
}  # fmt: skip
GLOBALS = {"numpy.core.multiarray _reconstruct", "numpy ndarray", "numpy dtype"}


def write_config(root: Path, text: str = CONFIG_TEXT) -> Path:
    root.mkdir(exist_ok=True)
    path = root / "noted.yaml"
    path.write_text(text.format(K=K, L=L, STEPS=STEPS, SWITCH=SWITCH, BATCH=BATCH))
    return path


def mnemo(*arguments: object, code: int = DONE) -> str:
    done = call([str(BINARY), *map(str, arguments)])
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout if code == DONE else done.stderr


def train(root: Path, *overrides: str, text: str = CONFIG_TEXT) -> Path:
    mnemo("train", write_config(root, text), "run=noted", *overrides, "--cache", root / "cache")
    return root / "cache/noted/noted"


def load(path: Path) -> Any:
    return pickle.loads(path.read_bytes())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("notebook"))


@pytest.fixture(scope="module")
def record(run: Path) -> dict[str, Any]:
    return load(run / "noted.pkl")


@pytest.fixture(scope="module")
def native(run: Path) -> dict[str, Any]:
    return mnemo_io.read_run(run)


def last_row(columns: dict[str, np.ndarray], step: int) -> int:
    """Of two rows with one step the second."""
    return int(np.flatnonzero(columns["step"] == step)[-1])


# The format ----------------------------------------------------------------------------------------------------------


def opcodes(path: Path) -> Iterator[tuple[str, Any]]:
    for opcode, argument, _ in pickletools.genops(path.read_bytes()):
        yield opcode.name, argument


@pytest.mark.parametrize("name", ["noted.pkl", "noted_sequences.pkl"])
def test_is_a_clean_pickle_of_protocol_4(run: Path, name: str) -> None:
    with open(os.devnull, "w") as nowhere:
        pickletools.dis((run / name).read_bytes(), nowhere)
    seen = list(opcodes(run / name))
    assert seen[0] == ("PROTO", 4)
    assert {argument for opcode, argument in seen if opcode == "GLOBAL"} == GLOBALS | {"torch from_numpy"}


CLEAN_PYTHON = """
import pickle, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "torch":
            raise ImportError("there is no torch here")
sys.meta_path.insert(0, NoTorch())
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        value = pickle.load(file)
print(sorted(value), type(value["sequences"][0]).__name__, value["sequences"][0].dtype)
"""


def test_numpy_form_needs_no_torch(run: Path, tmp_path: Path) -> None:
    mnemo("export", run, "--tree", tmp_path, "--format", "numpy")
    files = sorted(map(str, tmp_path.rglob("*.pkl")))
    done = subprocess.run([sys.executable, "-c", CLEAN_PYTHON, *files], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("'sequences', 'switch_start_iter', 'token_embedding'] ndarray int64\n")
    assert {argument for opcode, argument in opcodes(Path(files[0])) if opcode == "GLOBAL"} == GLOBALS


def flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{path}/{key}")
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from flat(item, f"{path}/{i}")
    else:
        yield path, value


def test_both_forms_hold_the_same_numbers(run: Path, record: dict[str, Any], tmp_path: Path) -> None:
    import torch

    mnemo("export", run, "--tree", tmp_path, "--format", "numpy")
    (path,) = (path for path in tmp_path.rglob("*.pkl") if "sequences" not in path.name)
    record = {**record, **load(run / "noted_sequences.pkl")}
    leaves, plain = dict(flat(record)), dict(flat(load(path)))
    assert list(leaves) == list(plain)
    for name, value in leaves.items():
        is_weight = "model" in name.split("/")[1] or "state_dict" in name or name.startswith("/sequences")
        assert isinstance(value, torch.Tensor) == is_weight, name
        same = np.array_equal(np.asarray(value), np.asarray(plain[name]), equal_nan=not isinstance(value, str))
        assert same and isinstance(plain[name], (np.ndarray, int, float, str)), name


# The content ---------------------------------------------------------------------------------------------------------


def test_args(record: dict[str, Any]) -> None:
    assert record["args"] == ARGS
    assert list(record) == [
        "args", "logs", "model", "model_state_dict", "mlp_state_dict", "c_attn_state_dict", "model_0", "model_3",
        "model_6", "model_9", "final_test_metrics", "positional_encoding", "token_embedding",
    ]  # fmt: skip


def test_logs(record: dict[str, Any], native: dict[str, Any]) -> None:
    assert len(record["logs"]) == STEPS // EPOCH
    steps, losses = native["metrics"]["step"], native["metrics"]["train_loss"]
    for i, log in enumerate(record["logs"]):
        assert set(log) == {
            "num_apppearances", "train_loss", "epoch", "lr", "loss_per_appearance", "appearances", "test_metrics",
            "probe_metrics",
        }  # fmt: skip
        assert log["probe_metrics"] == {"accuracy": [], "num_iters_required": []}
        assert log["epoch"] == i and log["lr"] == 1e-2
        assert log["loss_per_appearance"] == log["appearances"] == []
        within = (steps > i * EPOCH) & (steps <= (i + 1) * EPOCH)
        assert log["train_loss"] == pytest.approx(losses[within].mean(), rel=1e-12)


def test_counts_are_those_of_the_run(record: dict[str, Any], native: dict[str, Any]) -> None:
    for i, log in enumerate(record["logs"]):
        columns = native["sets"][f"phase_{int(i * EPOCH >= SWITCH)}"]
        counts = log["num_apppearances"]
        assert counts.dtype == np.float64 and counts.shape == (K,)
        assert np.array_equal(counts, columns["presentations"][last_row(columns, i * EPOCH)])
        assert counts.sum() == BATCH * (i * EPOCH - (SWITCH if i * EPOCH >= SWITCH else 0))


def expected_rows(native: dict[str, Any], rows: str, step: int) -> dict[str, np.ndarray]:
    phases = [0] if step < SWITCH else [0, 1]
    if rows in ("current", "all_ranks"):
        phases = phases[-1:]
    parts = []
    for phase in phases:
        columns = native["sets"][f"phase_{phase}"]
        row = last_row(columns, step)
        parts.append([columns["rank"], columns["loss"][row], columns["accuracy"][row]])
    rank, loss, accuracy = (np.concatenate(column) for column in zip(*parts))
    chosen = slice(None, None, 10 if rows in ("current", "all_phases") else 1)
    return {"true_rank": rank[chosen], "logsoftmaxloss": loss[chosen], "accuracy": accuracy[chosen]}


LINEAR_PROBES = ["mlp_probe_metrics", *(f"probe_novel_sequences_{layer}" for layer in range(4))]


def assert_metrics(metrics: dict[str, Any], expected: dict[str, np.ndarray], rows: str) -> None:
    keys = ["sequence_rank", "true_rank", "length", "logsoftmaxloss", "accuracy"]
    assert list(metrics) == [*keys, *(LINEAR_PROBES if rows != "all_ranks" else [])]
    assert metrics["length"] == 50 and isinstance(metrics["length"], int)
    assert np.array_equal(metrics["sequence_rank"], np.arange(len(expected["true_rank"])))
    assert metrics["sequence_rank"].dtype == metrics["true_rank"].dtype == np.int64
    assert metrics["logsoftmaxloss"].dtype == metrics["accuracy"].dtype == np.float32
    for key, values in expected.items():
        assert np.array_equal(metrics[key], values), key


@pytest.mark.parametrize("rows", ["current", "all_phases", "all_validation", "all_ranks"])
def test_rows(run: Path, native: dict[str, Any], tmp_path: Path, rows: str) -> None:
    mnemo("export", run, "--tree", tmp_path, "--rows", rows, "--no-sequences")
    (path,) = tmp_path.rglob("*.pkl")
    record = load(path)
    for i, log in enumerate(record["logs"]):
        assert_metrics(log["test_metrics"], expected_rows(native, rows, i * EPOCH), rows)
    assert_metrics(record["final_test_metrics"], expected_rows(native, rows, STEPS), rows)
    before, after = (len(record["logs"][i]["test_metrics"]["true_rank"]) for i in (0, -1))
    counts = {"current": (4, 4), "all_phases": (4, 8), "all_validation": (K, 2 * K), "all_ranks": (K, K)}
    assert (before, after) == counts[rows]


def test_default_rows_are_all_phases_with_a_switch(record: dict[str, Any], native: dict[str, Any]) -> None:
    for i, log in enumerate(record["logs"]):
        assert_metrics(log["test_metrics"], expected_rows(native, "all_phases", i * EPOCH), "all_phases")


def test_linear_probes_have_their_keys_and_no_numbers(record: dict[str, Any]) -> None:
    for metrics in [record["final_test_metrics"], *(log["test_metrics"] for log in record["logs"])]:
        probe = metrics["mlp_probe_metrics"]
        assert probe["layer"].tolist() == [0, 1, 2, 3] and probe["layer"].dtype == np.int64
        assert np.isnan(probe["accuracy"]).all() and probe["accuracy"].shape == (4,)
        assert probe["num_train"].tolist() == probe["num_test"].tolist() == [0] * 4
        assert all(metrics[f"probe_novel_sequences_{layer}"] == [] for layer in range(4))


def test_a_deeper_network_has_more_layers_to_probe(tmp_path: Path) -> None:
    record = load(train(tmp_path, "model.mlp_layers=5") / "noted.pkl")
    metrics = record["logs"][0]["test_metrics"]
    assert metrics["mlp_probe_metrics"]["layer"].tolist() == list(range(6))
    assert metrics["probe_novel_sequences_5"] == []


FEATURES = """\
  - {{kind: features, at: 40, sequences: 12, stride: 2}}
  - {{kind: features, at: 50, sequences: 12, stride: 2, name: between}}
  - {{kind: features, at: end, sequences: 12, stride: 2, name: last}}
"""


@pytest.mark.parametrize("form", ["torch", "numpy"])
def test_linear_probes_are_filled_in_and_nothing_else(tmp_path: Path, form: str) -> None:
    run = train(tmp_path, text=CONFIG_TEXT + FEATURES)
    path = run / "noted.pkl"
    if form == "numpy":
        mnemo("export", run, "--format", "numpy", "--tree", tmp_path / "tree", "--no-sequences")
        (path,) = (tmp_path / "tree").rglob("*.pkl")
    before = load(path)
    script = [sys.executable, str(REPOSITORY / "scripts/linear_probe.py"), str(run), "--sequences", "10"]
    done = call([*script, "--record", *([] if form == "torch" else [str(path)])])
    assert done.returncode == DONE, done.stderr
    assert done.stderr == f"note: {path}: has no log of step 50: its linear probes are left out\n"
    after = load(path)
    rows = [line.split() for line in done.stdout.splitlines()[1:]]
    for step, metrics in ((40, after["logs"][2]["test_metrics"]), (STEPS, after["final_test_metrics"])):
        told = [row for row in rows if row[:2] == [str(step), "sequence"]]
        probe = metrics["mlp_probe_metrics"]
        assert [f"{value:.3f}" for value in probe["accuracy"]] == [row[3] for row in told]
        assert probe["num_train"].tolist() == [int(row[6]) for row in told] and probe["num_train"].dtype == np.int64
        assert [f"{metrics[f'probe_novel_sequences_{layer}']:.3f}" for layer in range(4)] == [row[3] for row in told]
    for filled, empty in zip(
        [*(log["test_metrics"] for log in after["logs"]), after["final_test_metrics"]],
        [*(log["test_metrics"] for log in before["logs"]), before["final_test_metrics"]],
    ):
        filled.update({key: empty[key] for key in LINEAR_PROBES})
    assert pickle.dumps(described(after)) == pickle.dumps(described(before))
    assert "2 of 2 files hold" in mnemo("export", "--check", run)


def described(value: Any) -> Any:
    """Types, shapes and bytes of all that is in a record."""
    if isinstance(value, dict):
        return [(key, described(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return [described(item) for item in value]
    array = np.asarray(value)
    return [type(value).__name__, str(array.dtype), array.shape, array.tobytes()]


@pytest.mark.parametrize(
    ("options", "said"),
    [(["--target", "next_bit"], "--record takes what target sequence gives"), (["all_ranks"], "no room for linear")],
)
def test_a_record_that_takes_no_linear_probes_says_so(tmp_path: Path, options: list[str], said: str) -> None:
    rows = "all_ranks" if options == ["all_ranks"] else "current"
    run = train(tmp_path, f"output.pickle_rows={rows}", text=CONFIG_TEXT + FEATURES)
    before = (run / "noted.pkl").read_bytes()
    words = [] if rows == "all_ranks" else options
    script = [sys.executable, str(REPOSITORY / "scripts/linear_probe.py"), str(run), "--sequences", "10"]
    done = call([*script, "--record", *words])
    assert done.returncode == (DATA if rows == "all_ranks" else USAGE)
    assert said in done.stderr and done.stderr.count("\n") == 1
    assert (run / "noted.pkl").read_bytes() == before


def test_logs_without_an_evaluation_have_none(run: Path, native: dict[str, Any], tmp_path: Path) -> None:
    mnemo("export", run, "--tree", tmp_path, "--epoch-steps", 10, "--no-sequences")
    (path,) = tmp_path.rglob("*.pkl")
    logs = load(path)["logs"]
    assert [bool(log["test_metrics"]) for log in logs] == [True, False] * (STEPS // EPOCH)
    assert logs[3]["num_apppearances"].sum() == 30 * BATCH


def one_layer_module() -> Any:
    """MATHS 2, as a PyTorch module of the original's parameter names."""
    import torch
    from torch import nn

    class OneLayer(nn.Module):
        def __init__(self, heads: int, head_dim: int, mlp_width: int, mlp_layers: int) -> None:
            super().__init__()
            width = heads * head_dim
            self.heads = heads
            self.wte, self.wpe = nn.Embedding(2, width), nn.Embedding(L, width)
            self.c_attn = nn.Linear(width, 3 * width)
            self.pre_attn_ln, self.ln_f = nn.LayerNorm(width), nn.LayerNorm(width)
            sizes = [width] + [mlp_width] * mlp_layers
            self.linear_modules = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes, sizes[1:]))
            self.lm_head = nn.Linear(mlp_width, 2)

        def forward(self, bits: torch.Tensor) -> torch.Tensor:
            x = self.wte(bits) + self.wpe.weight[: bits.shape[1]]
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.c_attn(x).chunk(3, dim=-1))
            scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
            future = torch.ones(bits.shape[1], bits.shape[1], dtype=torch.bool).triu(1)
            h = (scores.masked_fill(future, -math.inf).softmax(-1) @ v).transpose(1, 2).flatten(2)
            h = self.ln_f(h)
            for j, layer in enumerate(self.linear_modules):
                h = torch.relu(layer(h)) + (h if j > 0 else 0)
            return self.lm_head(h)

    return OneLayer(2, 4, 12, 3)


def module_losses(state_dict: dict[str, Any], bits: Any) -> np.ndarray:
    import torch

    module = one_layer_module()
    module.load_state_dict(state_dict, strict=True)
    with torch.no_grad():
        scores = module(bits)[:, :-1]
        losses = torch.nn.functional.cross_entropy(scores.flatten(0, 1), bits[:, 1:].flatten(), reduction="none")
    return losses.view(len(bits), -1).mean(1).numpy()


def test_weights_reproduce_the_recorded_losses(run: Path, record: dict[str, Any]) -> None:
    sequences = load(run / "noted_sequences.pkl")["sequences"]
    assert record["model"] is record["model_state_dict"]
    every_tenth = [phase[::10] for phase in sequences]
    recorded = record["final_test_metrics"]["logsoftmaxloss"]
    losses = np.concatenate([module_losses(record["model"], bits) for bits in every_tenth])
    assert np.allclose(losses, recorded, atol=1e-5, rtol=0)
    # what trained up to epoch 3, from the snapshot with `every`
    early = module_losses(record["model_3"], every_tenth[0])
    assert np.allclose(early, record["logs"][3]["test_metrics"]["logsoftmaxloss"], atol=1e-5, rtol=0)


def test_snapshots(record: dict[str, Any], native: dict[str, Any]) -> None:
    for name, snapshot in (("early", "early"), ("pre_switch", "before")):
        weights = native["snapshots"][snapshot]
        attention, mlp = record["c_attn_state_dict"][name], record["mlp_state_dict"][name]
        assert set(attention) == {"weight", "bias"}
        for key, tensor in attention.items():
            assert np.array_equal(tensor, weights[f"c_attn.{key}"])
        assert list(mlp) == ["linear_modules", "lm_head"] and set(mlp["lm_head"]) == {"weight", "bias"}
        assert list(mlp["linear_modules"]) == [f"{j}.{kind}" for j in range(3) for kind in ("weight", "bias")]
        for group, tensors in mlp.items():
            for key, tensor in tensors.items():
                assert np.array_equal(tensor, weights[f"{group}.{key}"])
    assert list(record["mlp_state_dict"]) == list(record["c_attn_state_dict"]) == ["early", "pre_switch", "start"]
    for name, tensor in native["snapshots"]["start"].items():
        assert np.array_equal(record["model_0"][name], tensor)
    assert set(record["model_0"]) == set(record["model"])


def test_final_weights(run: Path, record: dict[str, Any]) -> None:
    weights = mnemo_io.read_safetensors(run / "final.safetensors")
    model = record["model"]
    assert set(model) == set(weights) | {"pre_attn_ln.weight", "pre_attn_ln.bias"}
    for name, tensor in weights.items():
        assert np.array_equal(model[name], tensor)
    assert model["pre_attn_ln.weight"].tolist() == [1] * 8 and model["pre_attn_ln.bias"].tolist() == [0] * 8
    for key, name, shape in (("positional_encoding", "wpe", (L, 8)), ("token_embedding", "wte", (2, 8))):
        assert isinstance(record[key], np.ndarray) and record[key].dtype == np.float32 and record[key].shape == shape
        assert np.array_equal(record[key], weights[f"{name}.weight"])


def test_sequences(run: Path) -> None:
    import torch

    loaded = load(run / "noted_sequences.pkl")
    assert [phase.dtype for phase in loaded["sequences"]] == [torch.int64] * 2
    for phase, bits in enumerate(loaded["sequences"]):
        assert np.array_equal(bits, np.load(run / f"sequences/phase_{phase}.npy"))
    assert loaded["switch_start_iter"] == [[0] * K, [SWITCH // EPOCH] * K]


def test_without_stored_sequences_and_in_float64(tmp_path: Path, run: Path) -> None:
    other = train(tmp_path, "output.sequences=false", "precision=fp64")
    assert (other / "noted_sequences.pkl").read_bytes() == (run / "noted_sequences.pkl").read_bytes()
    record = load(other / "noted.pkl")
    assert record["model"]["wte.weight"].dtype.is_floating_point and record["model"]["pre_attn_ln.bias"].itemsize == 8
    assert record["token_embedding"].dtype == np.float32


def test_without_a_switch_every_tenth_of_the_current_sequences(tmp_path: Path) -> None:
    text = CONFIG_TEXT.replace("  - {{kind: switch, at: {SWITCH}}}\n", "")
    run = train(tmp_path, text=text)
    record, native = load(run / "noted.pkl"), mnemo_io.read_run(run)
    assert record["args"]["is_resample_tasks"] == "False"
    columns = native["sets"]["train"]
    assert np.array_equal(record["final_test_metrics"]["true_rank"], np.arange(0, K, 10))
    assert np.array_equal(record["final_test_metrics"]["logsoftmaxloss"], columns["loss"][-1])
    assert set(record["mlp_state_dict"]) == {"early", "before", "start"}


def test_probes(run: Path, tmp_path: Path) -> None:
    probed = tmp_path / "noted"
    shutil.copytree(run, probed)
    (probed / "probes").mkdir()
    trace = np.array([0.5, 0.625, 0.9], np.float32)
    np.save(probed / "probes/probe.40.accuracy.npy", trace)
    (probed / "probes/probe.40.json").write_text('{"step": 40, "steps_needed": 3, "num_iters_required": 2}')
    mnemo("export", probed)
    logs = load(probed / "noted.pkl")["logs"]
    assert [i for i, log in enumerate(logs) if log["probe_metrics"]["accuracy"]] == [2]
    assert logs[3]["probe_metrics"] == {"accuracy": [], "num_iters_required": []}
    metrics = logs[2]["probe_metrics"]
    assert metrics["num_iters_required"] == 2 and [float(value) for value in metrics["accuracy"]] == trace.tolist()
    assert all(value.shape == () and value.dtype == np.float32 for value in metrics["accuracy"])


def test_attention_measures(tmp_path: Path) -> None:
    run = train(tmp_path, "eval.attention=[attn_reps, vertical_bars, decorrelation]", "eval.train_stride=5")
    record = load(run / "noted.pkl")
    files = {name: np.load(run / f"attention/{name}.npy") for name in ("vertical_bars", "decorrelation", "attn_reps")}
    steps = np.load(run / "attention/step.npy")
    assert steps.tolist() == [0, 20, 40, 60, 80, 100, 100, 120, 140, 160, 180, 200]
    logs = [(log["test_metrics"], i * EPOCH) for i, log in enumerate(record["logs"])]
    for metrics, step in [*logs, (record["final_test_metrics"], STEPS)]:
        row = int(np.flatnonzero(steps == step)[-1])
        # of nine bits there are the positions s = 0, 5 and t = 1, 6
        bars, heads = files["vertical_bars"][row][:, :2, :2], files["decorrelation"][row][:2]
        assert np.array_equal(metrics["vertical_bars_metric"], bars, equal_nan=True)
        assert np.array_equal(metrics["decorrelation_metric"], heads, equal_nan=True)
        (maps,) = metrics["attn_reps"]
        assert maps.shape == (8, 2, L, L) and maps.dtype == np.float32
        assert np.array_equal(maps, files["attn_reps"][row]) and np.allclose(maps.sum(-1), 1, atol=1e-5)


def test_attention_measures_are_left_out_where_a_table_is_made_of_the_metrics(tmp_path: Path) -> None:
    run = train(tmp_path, "eval.attention=[vertical_bars]", "output.pickle_rows=all_ranks", "data.length=11")
    for log in load(run / "noted.pkl")["logs"]:
        assert {np.shape(value) for key, value in log["test_metrics"].items() if key != "length"} == {(K,)}
    mnemo("export", run, "--rows", "current")
    bars = load(run / "noted.pkl")["final_test_metrics"]["vertical_bars_metric"]
    assert bars.shape == (2, 3, 2) and np.isnan(bars[:, 0]).all()  # s = 0, 5, 10; t = 1, 6
    assert np.isfinite(bars[:, 1, 1]).all()


# When they are written -----------------------------------------------------------------------------------------------


def test_a_resumed_run_has_the_same_bytes(tmp_path: Path) -> None:
    longer = ["train.steps=6000", "eval.every=500", "events.3.at=3000", "events.2.at=3000", "output.epoch_steps=100"]
    expected = results(train(tmp_path / "whole", *longer))
    overrides = ["run=noted", *longer, "--cache", str(tmp_path / "cache")]
    command = [str(BINARY), "train", str(write_config(tmp_path)), *overrides]
    resumed = tmp_path / "cache/noted/noted"
    process = start(command)
    wait_for(lambda: (resumed / "metrics.jsonl").exists() and (resumed / "metrics.jsonl").stat().st_size > 0, process)
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == STOPPED and not (resumed / "noted.pkl").exists()
    assert call(command).returncode == DONE
    actual = results(resumed)
    assert [name for name in expected if expected[name] != actual.get(name)] == []
    assert {"noted.pkl", "noted_sequences.pkl"} <= set(actual)


def test_export_writes_what_the_run_wrote(run: Path, tmp_path: Path) -> None:
    before = results(run)
    printed = mnemo("export", run)
    assert printed.split() == [str(run / "noted.pkl"), str(run / "noted_sequences.pkl")]
    assert results(run) == before


def test_epochs_that_do_not_fit(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    place = ["train", config, "--cache", tmp_path / "cache"]
    message = mnemo(*place, "output.epoch_steps=30", code=CONFIG)
    assert "output.epoch_steps: 30 does not divide train.steps (200)" in message
    assert "30 does not divide the step of 'switch' (100)" in message
    assert "8 is no multiple of train.log_every (5)" in mnemo(*place, "output.epoch_steps=8", code=CONFIG)
    assert "eval.every = 30, does not divide" in mnemo(*place, "eval.every=30", "output.pickle=numpy", code=CONFIG)
    # by default such a run is trained, says so and has none
    done = call([str(BINARY), *map(str, place), "run=quiet", "eval.every=30", "train.steps=120"])
    assert done.returncode == DONE and "no notebook pickles: the epoch of a record, eval.every = 30" in done.stderr
    assert list((tmp_path / "cache").rglob("*.pkl")) == []
    quiet = tmp_path / "cache/noted/quiet"
    assert "--epoch-steps" in mnemo("export", quiet, code=CONFIG)
    mnemo("export", quiet, "--epoch-steps", 20)
    assert len(load(quiet / "quiet.pkl")["logs"]) == 6


def test_rows_that_are_not_scored(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    message = mnemo("train", config, "output.pickle_rows=all_ranks", "eval.validation_stride=2", code=CONFIG)
    assert "output.pickle_rows: the rows of all_ranks are not scored: eval.validation_stride must be 1" in message


def test_dry_run_counts_them(run: Path, tmp_path: Path) -> None:
    text = mnemo("train", write_config(tmp_path), "--dry-run", "--cache", tmp_path)
    without = mnemo("train", write_config(tmp_path), "output.pickle=none", "--dry-run", "--cache", tmp_path)
    assert "pickles 0.0 MB" in without
    estimate = float(text.split("pickles ")[1].split(" MB")[0]) * 1e6
    size = sum((run / name).stat().st_size for name in ("noted.pkl", "noted_sequences.pkl"))
    assert estimate == pytest.approx(size, abs=6e4)


# Trees ---------------------------------------------------------------------------------------------------------------

NAME = ARGS["fileprefix"]


def visible(tree: Path) -> list[str]:
    files = (path.relative_to(tree) for path in tree.rglob("*") if path.is_file())
    return sorted(str(path) for path in files if not any(part.startswith(".") for part in path.parts))


def test_tree(run: Path, tmp_path: Path) -> None:
    mnemo("export", run, "--tree", tmp_path)
    first = visible(tmp_path)
    assert first == [f"noted/{NAME}/{NAME}.pkl", f"noted/{NAME}/{NAME}_all_sequences.pkl"]
    record, other = (tmp_path / name for name in first)
    assert record.samefile(other)
    loaded = load(other)
    native = {**load(run / "noted.pkl"), **load(run / "noted_sequences.pkl")}
    assert list(loaded) == list(native)
    pairs = list(zip(flat(loaded), flat(native)))
    assert all(one[0] == two[0] and np.array_equal(one[1], two[1]) for one, two in pairs if "accuracy" not in one[0])
    mnemo("export", run, "--tree", tmp_path, "--sequences-name", "_sequences")  # the same run: replaced, not doubled
    assert visible(tmp_path) == [*first, f"noted/{NAME}/{NAME}_sequences.pkl"]
    mnemo("export", run, "--tree", tmp_path)
    assert record.samefile(other) and list(tmp_path.rglob("*.tmp")) == []


def test_folders_of_a_tree_hold_nothing_else_not_even_hidden(run: Path, tmp_path: Path) -> None:
    mnemo("export", run, "--tree", tmp_path)
    assert os.listdir(tmp_path / "noted") == [NAME]
    assert sorted(os.listdir(tmp_path / "noted" / NAME)) == [f"{NAME}.pkl", f"{NAME}_all_sequences.pkl"]
    assert sorted(os.listdir(tmp_path)) == [".sources", "noted"]


def test_weights_of_snapshots_in_files_of_their_own(run: Path, tmp_path: Path) -> None:
    printed = mnemo("export", run, "--tree", tmp_path, "--iter-files").split()
    files = [tmp_path / f"noted/{NAME}/{NAME}_model_iter_{epoch}.pkl" for epoch in (0, 3, 6, 9)]
    assert printed[2:] == list(map(str, files))
    record = load(tmp_path / f"noted/{NAME}/{NAME}.pkl")
    for epoch, path in zip((0, 3, 6, 9), files):
        weights = load(path)
        assert list(weights) == list(record["model"])
        assert all(np.array_equal(tensor, record[f"model_{epoch}"][name]) for name, tensor in weights.items())
    assert "6 of 6 files hold" in mnemo("export", "--check", tmp_path)
    assert "excludes" in mnemo("export", run, "--tree", tmp_path, "--iter-files", "--flat", code=USAGE)


def test_no_snapshots_no_files_of_them(tmp_path: Path) -> None:
    run = train(tmp_path, "events=[]")
    done = call([str(BINARY), "export", str(run), "--iter-files"])
    assert done.returncode == DONE and "--iter-files has nothing to write" in done.stderr
    assert sorted(path.name for path in run.glob("*.pkl")) == ["noted.pkl", "noted_sequences.pkl"]


def test_the_check_of_a_tree_finds_nothing_wrong(run: Path, tmp_path: Path) -> None:
    mnemo("export", run, "--tree", tmp_path)
    assert mnemo("export", "--check", tmp_path).endswith("2 of 2 files hold\n")


def test_other_models_have_sequences_alone(tmp_path: Path) -> None:
    text = CONFIG_TEXT.replace(
        "one_layer_attention, heads: 2, head_dim: 4, mlp_layers: 3, mlp_width: 12", "prefix_readout, features: 2"
    )
    run = train(tmp_path, text=text)
    assert sorted(path.name for path in run.glob("*.pkl")) == ["noted_sequences.pkl"]
    mnemo("export", run, "--tree", tmp_path / "tree")
    (path,) = (tmp_path / "tree").rglob("*.pkl")
    assert path.name.endswith("_all_sequences.pkl") and len(load(path)["sequences"]) == 2


GPT = "gpt, layers: 2, heads: 2, head_dim: 4"


def gpt_losses(state_dict: dict[str, Any], bits: Any, layers: int, heads: int) -> np.ndarray:
    """MATHS 3 in PyTorch, with learned positions, from tensors of the original's names: the loss of each row."""
    from torch.nn import functional as nn

    def linear(x: Any, name: str) -> Any:
        return nn.linear(x, state_dict[f"{name}.weight"], state_dict[f"{name}.bias"])

    def norm(x: Any, name: str) -> Any:
        return nn.layer_norm(x, x.shape[-1:], state_dict[f"{name}.weight"], state_dict[f"{name}.bias"])

    x = state_dict["transformer.wte.weight"][bits] + state_dict["transformer.wpe.weight"][: bits.shape[1]]
    for layer in range(layers):
        block = f"transformer.h.{layer}"
        qkv = linear(norm(x, f"{block}.ln_1"), f"{block}.attn.c_attn")
        q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        o = nn.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + linear(o, f"{block}.attn.c_proj")
        x = x + linear(nn.gelu(linear(norm(x, f"{block}.ln_2"), f"{block}.mlp.c_fc")), f"{block}.mlp.c_proj")
    scores = linear(norm(x, "transformer.ln_f"), "lm_head")[:, :-1]
    losses = nn.cross_entropy(scores.flatten(0, 1), bits[:, 1:].flatten(), reduction="none")
    return losses.view(len(bits), -1).mean(1).numpy()


@pytest.mark.parametrize("position", ["learned", "rope"])
def test_a_gpt_has_a_record(tmp_path: Path, position: str) -> None:
    text = CONFIG_TEXT.replace(
        "one_layer_attention, heads: 2, head_dim: 4, mlp_layers: 3, mlp_width: 12", f"{GPT}, position: {position}"
    ).replace("novel: 8", "novel: 8, attention: [vertical_bars, decorrelation, attn_reps]")
    run = train(tmp_path, text=text)
    record = load(run / "noted.pkl")
    weights, metrics = record["model"], record["final_test_metrics"]
    assert (record["args"]["arch"], record["args"]["num_layers"]) == ("gpt", 2)
    assert ("transformer.wpe.weight" in weights) == (position == "learned") and "pre_attn_ln.weight" not in weights
    assert record["positional_encoding"].any() == (position == "learned")
    assert record["mlp_state_dict"] == record["c_attn_state_dict"] == {} and "model_3" in record
    for name in ("vertical_bars_metric", "decorrelation_metric"):
        assert metrics[name].shape == (2, 2, 2, 2)  # layers, and two heads at two positions
    assert [maps.shape for maps in metrics["attn_reps"]] == [(4, 2, L, L)] * 2
    native = mnemo_io.read_run(run)["attention"]["attn_reps"]
    assert native.shape[1:] == (2, 4, 2, L, L) and np.array_equal(native[-1], metrics["attn_reps"])
    if position == "learned":
        sequences = load(run / "noted_sequences.pkl")["sequences"]
        losses = np.concatenate([gpt_losses(weights, phase[::10], 2, 2) for phase in sequences])
        assert np.allclose(losses, metrics["logsoftmaxloss"], atol=1e-5, rtol=0)
    mnemo("export", run, "--tree", tmp_path / "tree")
    assert mnemo("export", "--check", tmp_path / "tree").endswith("2 of 2 files hold\n")


def test_flat_tree(run: Path, tmp_path: Path) -> None:
    mnemo("export", run, "--tree", tmp_path, "--flat")
    assert visible(tmp_path) == [f"noted/{NAME}.pkl"]


def test_a_taken_name_gets_a_number(run: Path, tmp_path: Path) -> None:
    other = train(tmp_path, "train.lr=0.02")
    tree = tmp_path / "tree"
    mnemo("export", run, other, "--tree", tree, "--no-sequences")
    assert visible(tree) == [f"noted/{NAME}/{NAME}.pkl", f"noted/{NAME}_1/{NAME}_1.pkl"]
    assert load(tree / f"noted/{NAME}_1/{NAME}_1.pkl")["args"]["lr"] == 0.02


# Bad input -----------------------------------------------------------------------------------------------------------


def test_refuses_what_is_no_finished_run(run: Path, tmp_path: Path) -> None:
    assert "is no run directory" in mnemo("export", tmp_path, code=DATA)
    mnemo("train", write_config(tmp_path), "--max-hours", "1e-9", "--cache", tmp_path, code=STOPPED)
    assert "is not over (its state is stopped)" in mnemo("export", tmp_path / "noted/noted", code=DATA)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("switches.json", b"{"),
        ("switches.json", b'[{"phase": 1}]'),
        ("metrics.jsonl", b"nothing\n"),
        ("final.safetensors", b"\xff" * 100),
        ("eval/phase_0/loss.npy", b"\x93NUMPY"),
        ("eval/phase_0/step.npy", b""),
        ("snapshots/early.safetensors", b""),
    ],
)
def test_refuses_damaged_files(run: Path, tmp_path: Path, name: str, content: bytes) -> None:
    damaged = tmp_path / "noted"
    shutil.copytree(run, damaged)
    (damaged / name).write_bytes(content)
    (damaged / "noted.pkl").unlink()
    assert name.split("/")[-1] in mnemo("export", damaged, code=DATA)
    assert not (damaged / "noted.pkl").exists() and list(damaged.glob("*.tmp")) == []
    json.loads((damaged / "status.json").read_text())
