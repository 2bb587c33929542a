"""Writes notebook records as the contract has them: dicts in `record()`, bytes in `pickled()`. No torch needed."""

from __future__ import annotations

import io
import pickle
import types
from pathlib import Path
from typing import Any

import bayes
import numpy as np

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
        return {
            "sequence_rank": np.arange(len(rows)), "true_rank": np.array([rank for _, rank in rows]), "length": 50,
            "logsoftmaxloss": np.float32(1.0) - accuracy, "accuracy": accuracy,
        }  # fmt: skip

    for epoch in range(epochs):
        counts = np.zeros(num_sequences) if epoch in switches else counts.copy()
        logs.append({
            "num_apppearances": counts, "train_loss": 0.7 - 0.01 * epoch, "epoch": epoch, "lr": 1e-3,
            "loss_per_appearance": [], "appearances": [], "test_metrics": metrics(epoch),
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
        "lr": 1e-3, "arch": "OneLayerAttention", "num_iters": epochs, "num_iters_per_epoch": EPOCH_STEPS,
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
    """folder/<group>/<run>/<run>.pkl and <run>_all_sequences.pkl; returns the record's path."""
    name = run_name(content["args"]["K"])
    path = folder / GROUP / name / f"{name}.pkl"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickled(content))
    if sequences is not None:
        path.with_name(f"{name}_all_sequences.pkl").write_bytes(pickled(sequences))
    return path
