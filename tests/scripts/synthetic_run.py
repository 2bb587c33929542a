"""A synthetic run directory, written with NumPy alone: the formats of the engine, curves that look like training."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

LN2 = float(np.log(2.0))


def safetensors_bytes(tensors: dict[str, np.ndarray], metadata: dict[str, str] | None = None) -> bytes:
    names = {"float64": "F64", "float32": "F32", "int64": "I64", "int32": "I32", "uint8": "U8", "bool": "BOOL"}
    header: dict = {"__metadata__": metadata} if metadata is not None else {}
    offset = 0
    for name, tensor in tensors.items():
        end = offset + tensor.nbytes
        header[name] = {"dtype": names[tensor.dtype.name], "shape": list(tensor.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensor.tobytes() for tensor in tensors.values())


def write_settings(folder: Path, config: dict, seeds: dict | None = None, **model: object) -> None:
    """config.yaml and run.json; `model` changes what the model's facts say."""
    (folder / "config.yaml").write_text(json.dumps(config))
    facts = {"kind": config["model"]["kind"], "text": f"{config['model']['heads']} heads", "num_parameters": 10,
             "task": "bits", "first_position": 1, "has_memory": False, **model}  # fmt: skip
    choices = config["data"]["num_sequences"] if facts["task"] == "sequences" else 2
    followed = {key: config[key].get("seed") for key in ("data", "model")}
    followed = {key: config.get("seed") if seed is None else seed for key, seed in followed.items()}
    facts = {"model": facts, "chance": {"loss": float(np.log(choices)), "accuracy": 1 / choices},
             "seeds": followed if seeds is None else seeds, "phases": 2}  # fmt: skip
    (folder / "run.json").write_text(json.dumps({**config, "facts": facts}))


def example_config(num_sequences: int, length: int, steps: int, switches: list[int]) -> dict:
    return {
        "name": "demo",
        "group": "demo",
        "run": "demo",
        "seed": 0,
        "precision": "fp32",
        "data": {"num_sequences": num_sequences, "length": length, "zipf_exponent": 1.0, "seed": None},
        "model": {"kind": "one_layer_attention", "heads": 4, "head_dim": 16, "mlp_layers": 3, "mlp_width": 64},
        "train": {"steps": steps, "batch_size": 64, "lr": 1e-3, "betas": [0.9, 0.999], "eps": 1e-8, "log_every": 50},
        "eval": {"every": steps // 20, "train_stride": 10, "validation_stride": 1, "novel": 16},
        "events": [
            {"kind": "switch", "at": at, "step": at, "reset_optimizer": False, "name": f"switch_{index}"}
            for index, at in enumerate(switches)
        ],
    }


def learned(presentations: np.ndarray, speed: float) -> np.ndarray:
    """Share of what can be learned that is learned after so many presentations, 0..1."""
    known = np.maximum(presentations, 0.0) ** 1.2
    return known / (known + speed)


class Curves:
    """Made-up truth behind the run: what an evaluation of ranks of some phase gives after a number of steps."""

    def __init__(self, num_sequences: int, length: int, switches: list[int], batch_size: int = 64) -> None:
        weights = 1.0 / np.arange(1.0, num_sequences + 1)
        self.p = weights / weights.sum()
        self.batch_size, self.starts = batch_size, [0, *switches]
        rank = np.arange(num_sequences)
        self.floor = [-np.log(self.p) / length * (1 + 0.02 * k) + 1e-3 * np.sin(rank) for k in range(len(self.starts))]
        self.ceiling = [1.0 - 0.55 * floor for floor in self.floor]

    def counts(self, phase: int, step: int) -> np.ndarray:
        end = self.starts[phase + 1] if phase + 1 < len(self.starts) else step
        return np.floor(max(0, min(step, end) - self.starts[phase]) * self.batch_size * self.p).astype(np.int64)

    def evaluate(self, phase: int, step: int, rank: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        share = learned(self.counts(phase, step)[rank], 300.0 / (1 + phase))
        if phase + 1 < len(self.starts):
            share = share * np.exp(-max(0, step - self.starts[phase + 1]) / (0.08 * self.starts[1]))
            forgotten = 0.5 * (1 - np.exp(-max(0, step - self.starts[phase + 1]) / (0.15 * self.starts[1])))
        else:
            forgotten = 0.0
        wobble = 0.012 * np.sin(12.9898 * (rank + 1) + step)
        loss = LN2 + share * (self.floor[phase][rank] - LN2) + forgotten + np.abs(wobble)
        accuracy = 0.5 + share * (self.ceiling[phase][rank] - 0.5) + wobble * (1 - share)
        return loss.astype(np.float32), accuracy.astype(np.float32)


def write_set(folder: Path, rows: list[tuple[int, int, int]], rank: np.ndarray, curves: Curves) -> None:
    """rows: (step, current phase, phase of the set's sequences or -1 for novel)."""
    folder.mkdir(parents=True)
    columns: dict[str, list] = {"presentations": [], "last_seen": [], "loss": [], "accuracy": []}
    for step, _, phase in rows:
        counts = curves.counts(phase, step)[rank] if phase >= 0 else np.zeros(len(rank), np.int64)
        novel = (np.full(len(rank), LN2 + 0.01 * (rank % 3 + 1)), np.full(len(rank), 0.5))
        loss, accuracy = curves.evaluate(phase, step, rank) if phase >= 0 else novel
        for name, row in zip(columns, (counts, np.where(counts > 0, step - 1, -1), loss, accuracy)):
            columns[name].append(row)
    np.save(folder / "step.npy", np.array([row[0] for row in rows], np.int64))
    np.save(folder / "phase.npy", np.array([row[1] for row in rows], np.int64))
    np.save(folder / "rank.npy", rank.astype(np.int64))
    for name, values in columns.items():
        dtype = np.int64 if name in ("presentations", "last_seen") else np.float32
        np.save(folder / f"{name}.npy", np.array(values, dtype).reshape(len(rows), len(rank)))


def write_run(
    path: Path,
    num_sequences: int = 200,
    length: int = 16,
    steps: int = 2000,
    switches: tuple[int, ...] = (1000,),
    until: int | None = None,
    evaluations: int = 20,
) -> Path:
    """Writes a run directory; `until` stops it at a step, as if it were in flight (0 rows with -1)."""
    curves = Curves(num_sequences, length, list(switches))
    until = steps if until is None else until
    path.mkdir(parents=True)
    write_settings(path, example_config(num_sequences, length, steps, list(switches)))
    due = sorted({*range(0, steps + 1, max(1, steps // evaluations)), *switches})
    before = [(step, int(np.searchsorted(switches, step, "left"))) for step in due]
    after = [(step, k + 1) for k, step in enumerate(switches)]
    rows = sorted(row for row in before + after if row[0] <= until)
    done = [(k + 1, at) for k, at in enumerate(switches) if at <= until]
    everyone = np.arange(num_sequences)
    write_set(path / "eval/train", [(s, k, k) for s, k in rows], everyone[::10], curves)
    for phase in range(len(done) + 1):
        write_set(path / f"eval/phase_{phase}", [(s, k, phase) for s, k in rows if k >= phase], everyone, curves)
    write_set(path / "eval/novel", [(s, k, -1) for s, k in rows], np.arange(min(16, num_sequences)), curves)
    _write_theory(path, curves, len(done) + 1)
    (path / "sequences").mkdir()
    for phase in range(len(done) + 1):
        bits = (np.arange(num_sequences * length) * 2654435761 // 65536 + phase) % 2
        np.save(path / f"sequences/phase_{phase}.npy", bits.reshape(num_sequences, length).astype(np.uint8))
    (path / "switches.json").write_text(json.dumps([{"phase": phase, "step": at} for phase, at in done]))
    log_every = max(1, steps // 200)
    lines = [_metrics_line(curves, step, switches) for step in range(log_every, until + 1, log_every)]
    (path / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
    state = {"state": "done" if until == steps else "running", "step": max(until, 0), "steps": steps, "loss": 0.25}
    (path / "status.json").write_text(json.dumps(state))
    (path / "meta.json").write_text(json.dumps({"version": "0.1.0", "device": "cpu"}))
    weights = {"wte.weight": np.arange(8, dtype=np.float32).reshape(2, 4), "lm_head.bias": np.zeros(2, np.float32)}
    (path / "snapshots").mkdir()
    (path / "snapshots/pre_switch.safetensors").write_bytes(safetensors_bytes(weights, {"digest": "0" * 32}))
    (path / "final.safetensors").write_bytes(safetensors_bytes(weights, {"step": str(steps)}))
    return path


def _write_theory(path: Path, curves: Curves, phases: int) -> None:
    (path / "theory").mkdir()
    summary = []
    for phase in range(phases):
        floor, ceiling = curves.floor[phase], curves.ceiling[phase]
        np.save(path / f"theory/phase_{phase}.npy", np.stack([floor, ceiling], axis=1))
        entropy = float(-(curves.p * np.log(curves.p)).sum())
        summary.append({"phase": phase, "loss_floor": float(curves.p @ floor), "entropy": entropy,
                        "accuracy_ceiling": float(curves.p @ ceiling), "retrieval_ceiling": 0.9,
                        "accuracy_ceiling_unweighted": float(ceiling.mean())})  # fmt: skip
    (path / "theory/theory.json").write_text(json.dumps({"phases": summary}))


def _metrics_line(curves: Curves, step: int, switches: tuple[int, ...]) -> str:
    phase = int(np.searchsorted(switches, step, "left"))
    loss, accuracy = curves.evaluate(phase, step, np.arange(len(curves.p)))
    noise = 1 + 0.04 * np.sin(78.233 * step)
    record = {"step": step, "phase": phase, "draws": 64 * step, "train_loss": float(curves.p @ loss * noise),
              "train_accuracy": float(curves.p @ accuracy), "lr": 0.001}  # fmt: skip
    return json.dumps(record)


@pytest.fixture
def make_run(tmp_path):
    """A function that writes a run directory: make_run(name="run", **options of write_run)."""
    return lambda name="run", **options: write_run(tmp_path / name, **options)


@pytest.fixture
def run_dir(make_run) -> Path:
    return make_run()


def write_further(path: Path) -> Path:
    """What `eval: {by_position, completion, attention}` and a DAM's measures add to a run directory."""
    generator = np.random.default_rng(0)
    sets = {folder.name: np.load(folder / "rank.npy") for folder in (path / "eval").iterdir()}
    for name, rank in sets.items():
        folder, rows = path / "eval" / name, len(np.load(path / "eval" / name / "step.npy"))
        edges = [0, 10, 100, 1000][: 2 + int(rank.max() >= 10) + int(rank.max() >= 100)]
        edges[-1] = int(rank.max()) + 1
        bins = np.array(list(zip(edges, edges[1:])), np.int64)
        np.save(folder / "by_position_bins.npy", bins)
        for key, first, last in (("loss", LN2, 0.05), ("accuracy", 0.5, 0.98)):
            curve = np.linspace(first, last, 15) + 0.1 * np.arange(len(bins))[:, None] * (1 if key == "loss" else -1)
            steps = np.linspace(0, 1, max(rows, 1))[:rows, None, None]
            np.save(folder / f"by_position_{key}.npy", (first + steps * (curve - first)).astype(np.float32))
        np.save(folder / "completed.npy", generator.integers(0, 2, (rows, len(rank))).astype(np.uint8))
    for file in (path / "theory").glob("phase_*.npy"):
        bayes = np.stack([np.linspace(LN2, 0.02, 15), np.linspace(0.5, 0.99, 15)], axis=-1)
        np.save(path / "theory" / file.name.replace("phase", "by_position"), np.stack([bayes, bayes, bayes]))
    for folder, shapes in (("attention", {"vertical_bars": (4, 20, 20), "decorrelation": (20, 4, 4)}),
                           ("measures", {"A_sharpness": (16,), "B_logits_mean": (16,)})):  # fmt: skip
        (path / folder).mkdir()
        np.save(path / folder / "step.npy", np.arange(3) * 100)
        for name, shape in shapes.items():
            np.save(path / folder / f"{name}.npy", generator.random((3, *shape), np.float32))
    return path


def never_drawn(run_dir: Path, first: int) -> Path:
    """Ranks from `first` on have probability 0, as own weights with zeros have."""
    for file in run_dir.glob("theory/phase_*.npy"):
        table = np.load(file)
        table[first:, 0] = np.inf
        np.save(file, table)
    return run_dir


def overprinted(figure) -> list[tuple[str, str]]:
    """Pairs of labels of a figure's axes that lie on each other once it is drawn."""
    FigureCanvasAgg(figure).draw()
    texts = [axis.label for panel in figure.axes for axis in (panel.xaxis, panel.yaxis)]
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            texts += [tick.label1 for tick in ticks if tick.label1.get_visible() and low <= tick.get_loc() <= high]
    boxes = [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]
    return [(a, b) for (a, one), (b, other) in itertools.combinations(boxes, 2) if one.overlaps(other)]
