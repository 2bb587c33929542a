"""Linear probes in a notebook record: `linear_probe.py` fills in what the engine has left room for.

    found = probes.linear_probes(run, ["sequence"])
    left_out = write(Path("run.pkl"), found)          # steps that the record has no log of

Each evaluated log, and `final_test_metrics`, has `mlp_probe_metrics` {layer, accuracy, num_train, num_test}, arrays
over layers, and `probe_novel_sequences_<layer>`, a float where a layer was probed and [] elsewhere.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnemo.errors import CannotCreate, require
from mnemo.files import write_atomically
from mnemo.probes import LinearProbe
from mnemo.records.pickles import read_record

KEY, OF_LAYER = "mlp_probe_metrics", "probe_novel_sequences_{}"


def write(path: Path, found: Sequence[LinearProbe]) -> list[int]:
    """Fills probes of target `sequence` into a record, in one move; returns the steps of which it has no log.

    Raises
    ------
    DataError
        Where the file is not a record, or has no room for probes: rows of all ranks, or a memory's.
    CannotCreate
        Where it holds torch tensors and there is no torch.
    """
    record = read_record(path, _tensor)
    left_out = fill(record, found, str(path))
    write_atomically(path, lambda file: Pickler(file, 4).dump(record))
    return left_out


def fill(record: Any, found: Sequence[LinearProbe], path: str) -> list[int]:
    """The same in a record that has been read."""
    whole = isinstance(record, dict) and {"args", "logs", "final_test_metrics"} <= set(record)
    require(whole, f"{path}: is no record of a transformer (args, logs, final_test_metrics)")
    epoch = record["args"]["num_iters_per_epoch"]
    of_step = {index * epoch: log["test_metrics"] for index, log in enumerate(record["logs"])}
    of_step[len(record["logs"]) * epoch] = record["final_test_metrics"]
    left_out = set()
    for probe in found:
        if probe.target != "sequence":
            continue
        metrics = of_step.get(probe.step)
        if not metrics:
            left_out.add(probe.step)
            continue
        require(KEY in metrics, f"{path}: has no room for linear probes (its rows are all_ranks): export another one")
        table = metrics[KEY] = {name: np.array(array) for name, array in metrics[KEY].items()}
        for name in ("accuracy", "num_train", "num_test"):
            table[name][probe.layer] = getattr(probe, name)
        metrics[OF_LAYER.format(probe.layer)] = float(probe.accuracy)
    return sorted(left_out)


def _tensor(array: np.ndarray) -> Any:
    try:
        import torch
    except ImportError:
        raise CannotCreate("the record holds torch tensors, and there is no torch (pip install torch)") from None
    return torch.from_numpy(array)


class Pickler(pickle._Pickler):
    """As the engine writes records: names that NumPy 1 and 2 know, tensors by torch.from_numpy."""

    NAMES = ("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar"), ("torch", "from_numpy")

    def reducer_override(self, value: Any) -> Any:
        if value is _from_numpy:
            return "from_numpy"
        if (type(value).__module__, type(value).__name__) == ("torch", "Tensor"):
            return _from_numpy, (value.numpy(),)
        return NotImplemented

    def save_global(self, value: Any, name: str | None = None) -> None:
        module = next((module for module, known in self.NAMES if known == (name or value.__name__)), None)
        if module is None:
            super().save_global(value, name)
            return
        self.save(module)
        self.save(name or value.__name__)
        self.write(pickle.STACK_GLOBAL)
        self.memoize(value)


def _from_numpy(array: np.ndarray) -> Any:
    """Stands for torch.from_numpy, whose module pickle does not find."""
    raise AssertionError("a name in a file alone")
