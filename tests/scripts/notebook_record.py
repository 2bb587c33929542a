"""Writes notebook records as the contract has them: dicts in `record()`, bytes in `pickled()`. No torch needed."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import types
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from mnemo import bayes

GROUP, HEADS, FEATURES, MLP, LAYERS, LENGTH, BATCH, EPOCH_STEPS = "demo", 2, 3, 5, 2, 8, 16, 50


class Tensor:
    """A torch tensor in a record: pickles as torch.from_numpy(array)."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __reduce__(self) -> tuple:
        return _from_numpy, (self.array,)


def _from_numpy(array: np.ndarray) -> np.ndarray:
    return array


class _Pickler(pickle._Pickler):
    """Protocol 4 with the names of the contract, whatever NumPy is installed and without torch."""

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = "torch" if value is _from_numpy else "numpy.core.multiarray"
        if value is not _from_numpy and getattr(value, "__module__", "") != "numpy._core.multiarray":
            super().save_global(value, name)
            return
        word = "from_numpy" if value is _from_numpy else value.__name__
        self.write(f"c{module}\n{word}\n".encode())
        self.memoize(value)

    dispatch = {**pickle._Pickler.dispatch, types.FunctionType: save_global}


def pickled(value: Any) -> bytes:
    file = io.BytesIO()
    _Pickler(file, 4).dump(value)
    return file.getvalue()


def weights(generator: np.random.Generator, wrap=Tensor) -> dict[str, Any]:
    width = HEADS * FEATURES
    shapes = {
        "wte.weight": (2, width), "wpe.weight": (LENGTH, width), "pre_attn_ln.weight": (width,),
        "pre_attn_ln.bias": (width,), "c_attn.weight": (3 * width, width), "c_attn.bias": (3 * width,),
        "ln_f.weight": (width,), "ln_f.bias": (width,), "lm_head.weight": (2, MLP), "lm_head.bias": (2,),
    }  # fmt: skip
    for layer in range(LAYERS):
        shapes[f"linear_modules.{layer}.weight"] = (MLP, MLP if layer else width)
        shapes[f"linear_modules.{layer}.bias"] = (MLP,)
    return {name: wrap(generator.normal(size=shape).astype(np.float32)) for name, shape in shapes.items()}


def no_linear_probes() -> dict[str, Any]:
    """What linear_probe.py fills in."""
    none = np.zeros(4, np.int64)
    probe = {"layer": np.arange(4), "accuracy": np.full(4, np.nan, np.float32), "num_train": none, "num_test": none}
    return {"mlp_probe_metrics": probe, **{f"probe_novel_sequences_{layer}": [] for layer in range(4)}}


def rows_of(rule: str, num_sequences: int, phase: int) -> list[tuple[int, int]]:
    """(phase, rank) of each row, spelled out."""
    everything = [(p, rank) for p in range(phase + 1) for rank in range(num_sequences)]
    now = [(p, rank) for p, rank in everything if p == phase]
    return {"current": now[::10], "all_ranks": now, "all_phases": everything[::10], "all_validation": everything}[rule]


def accuracy_of(phase: int, rank: int, epoch: int) -> float:
    """What the record says of a sequence at an epoch: each value is its own."""
    return 0.5 + (phase + 1) * 0.1 + rank * 1e-3 + epoch * 1e-4


def record(
    rule: str = "all_phases", num_sequences: int = 40, epochs: int = 8, switches: tuple[int, ...] = (4,), wrap=Tensor
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A transformer's record and its sequences."""
    generator = np.random.default_rng(0)
    starts = [0, *switches]
    p = bayes.zipf(num_sequences, 1.0)
    counts, logs = np.zeros(num_sequences), []

    def phase_of(epoch: int) -> int:
        return sum(start <= epoch for start in starts) - 1

    def metrics(epoch: int) -> dict[str, Any]:
        rows = rows_of(rule, num_sequences, phase_of(epoch))
        accuracy = np.array([accuracy_of(phase, rank, epoch) for phase, rank in rows], np.float32)
        found = {
            "sequence_rank": np.arange(len(rows)), "true_rank": np.array([rank for _, rank in rows]), "length": 50,
            "logsoftmaxloss": np.float32(1.0) - accuracy, "accuracy": accuracy,
        }  # fmt: skip
        return found if rule == "all_ranks" else {**found, **no_linear_probes()}

    for epoch in range(epochs):
        counts = np.zeros(num_sequences) if epoch in switches else counts.copy()
        logs.append({
            "num_apppearances": counts, "train_loss": 0.7 - 0.01 * epoch, "epoch": epoch, "lr": 1e-3,
            "loss_per_appearance": [], "appearances": [], "test_metrics": metrics(epoch),
            "probe_metrics": {"accuracy": [], "num_iters_required": []},
        })  # fmt: skip
        counts = counts + generator.multinomial(BATCH * EPOCH_STEPS, p)
    state = weights(generator, wrap)
    before = weights(generator, wrap)
    mlp = {"linear_modules": {n[15:]: t for n, t in before.items() if n.startswith("linear_modules.")},
           "lm_head": {n[8:]: t for n, t in before.items() if n.startswith("lm_head.")}}  # fmt: skip
    attention = {n[7:]: t for n, t in before.items() if n.startswith("c_attn.")}
    args = {
        "wandb_group_name": GROUP, "len_context": LENGTH, "K": num_sequences, "vocab_size": 2, "num_heads": HEADS,
        "num_layers": 1, "num_hidden_features": FEATURES, "num_hidden_features_mlp": MLP, "num_mlp_layers": LAYERS,
        "lr": 1e-3, "arch": "OneLayerAttention", "num_iters": epochs * EPOCH_STEPS, "num_iters_per_epoch": EPOCH_STEPS,
        "batch_size": BATCH, "seed": 3, "is_resample_tasks": "True" if switches else "False",
        "is_initialize_attention_weights_to_zero": "False", "is_probe": "False", "probe_every_iter": 0,
        "sequence_sampling_distribution": "zipf", "fileprefix": run_name(num_sequences),
    }  # fmt: skip
    sequences = [generator.integers(0, 2, (num_sequences, LENGTH)) for _ in starts]
    plain = {name: getattr(tensor, "array", tensor) for name, tensor in state.items()}
    return {
        "args": args, "logs": logs, "model": state, "model_state_dict": state,
        "mlp_state_dict": {"pre_switch": mlp} if switches else {},
        "c_attn_state_dict": {"pre_switch": attention} if switches else {},
        "final_test_metrics": metrics(epochs),
        "positional_encoding": plain["wpe.weight"], "token_embedding": plain["wte.weight"],
    }, {
        "sequences": [wrap(table) for table in sequences],
        "switch_start_iter": [[start] * num_sequences for start in starts],
    }  # fmt: skip


def run_name(num_sequences: int) -> str:
    return f"{GROUP}_transformer_K_{num_sequences}_L_{LENGTH}_hidden_{FEATURES}_nheads_{HEADS}_nlayers_1_3"


def write_tree(folder: Path, content: dict[str, Any], sequences: dict[str, Any] | None) -> Path:
    """folder/<group>/<run>/<run>.pkl, with the sequences under two names; returns the record's path."""
    name = run_name(content["args"]["K"])
    path = folder / content["args"]["wandb_group_name"] / name / f"{name}.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickled({**content, **(sequences or {})}))
    if sequences is not None:
        os.link(path, path.with_name(f"{name}_all_sequences.pkl"))
    return path


# DAM ------------------------------------------------------------------------------------------------------------------


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a - a.mean(), b - b.mean()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def dam_record(retrieval: bool = False) -> dict[str, Any]:
    """A DAM's record of two phases of three steps each, every step logged; the weights do not move."""
    generator = np.random.default_rng(0)
    N, H, K, M = 5, 3, 4, 4 if retrieval else 9
    A, B = (generator.normal(size=shape).astype(np.float32) for shape in ((N, H, N), (H, N)))
    pairs = [(g, h) for g in range(H) for h in range(H) if g != h]
    rows = {
        "A_logits_mean": A.mean(axis=2).mean(axis=1), "B_logits_mean": B.mean(axis=0),
        "A_correlation_offdiag_mean": np.array([np.mean([pearson(A[n, g], A[n, h]) for g, h in pairs])
                                                for n in range(N)], np.float32),
    }  # fmt: skip
    logs = [
        {"step": step, "phase": phase, "loss": 0.7, "accuracy": np.float32(0.5), "A_sharpness": np.float32(0.4),
         **{name: Tensor(row) for name, row in rows.items()},
         **{f"{name}_mean": row.mean() for name, row in rows.items()}}
        for phase in ("train", "eval") for step in range(3)
    ]  # fmt: skip
    args = argparse.Namespace(eta=10.0, lr=0.01, INIT_STD=0.1, N=N, H=H, M=M, K=K, BATCH_SIZE=3, NUM_STEPS=3,
                              NUM_ITERS_PER_LOG=1, savedir="demo", prefix="dam_demo",
                              is_freeze_A="BothAB" if retrieval else "LearnAB", device="cpu")  # fmt: skip
    memory = 2.0 * (generator.permutation(1 << N)[:K, None] >> np.arange(N) & 1) - 1  # distinct
    memory = memory[np.arange(M) % K].astype(np.float32)
    return {"args": args, "logs": logs, "model_state_dict": {
        "A_logits": Tensor(A), "B_logits": Tensor(B), "memory": Tensor(memory)}}  # fmt: skip


def write_dam(folder: Path, content: dict[str, Any]) -> Path:
    """folder/demo/dam_demo.pt, as torch.save lays it out, but for storages of their own."""
    path = folder / GROUP / "dam_demo.pt"
    path.parent.mkdir(parents=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickled(content))
    return path
