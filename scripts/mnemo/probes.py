"""What events that act on a copy have written: fork probes, transplants, features; and linear probes of those features.

A **fork probe** trains a copy of the network on novel sequences, its attention frozen. A **linear probe** asks what is
in the features already: a logistic regression, L2 with C = 1, on the output of a layer at some positions of novel
sequences (layer 0: what enters the MLP; j: after its layer j).

Letters: S sequences, P positions, W width of a layer, N steps of a fork probe.
"""

from __future__ import annotations

import csv
import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mnemo.errors import CannotCreate, DataError, UsageError, require
from mnemo.files import read_json, read_npy, read_text, require_int
from mnemo.runs import Lazy, Run

TARGETS = ("sequence", "next_bit")
WINDOW = 10  # batches over which a fork probe takes its accuracy
MAX_ITERATIONS = 1000


# Fork probes ----------------------------------------------------------------------------------------------------------


class ForkProbe(NamedTuple):
    """A copy that was trained: at which step of the run, the accuracy (N,) of each batch, how many steps it needed.

    `steps_needed` is inf where it gave up.
    """

    name: str
    step: int
    accuracy: np.ndarray
    steps_needed: float
    until: float


def fork_probes(run: Run) -> list[ForkProbe]:
    """All fork probes of a run, by the step at which they began."""
    found = []
    for file in (run.path / "probes").glob("*.json"):
        said, name = read_json(file), file.stem.rpartition(".")[0]
        step, needed, until = (
            require_int(said.get("step"), "step", str(file)),
            said.get("steps_needed"),
            said.get("until"),
        )
        require(isinstance(until, (int, float)), f"{file}: until must be a number, got {until!r}")
        needed = math.inf if needed is None else float(require_int(needed, "steps_needed", str(file)))
        accuracy = read_npy(file.with_name(f"{file.stem}.accuracy.npy"), np.float32, 1)
        found.append(ForkProbe(name, step, accuracy, needed, float(until)))
    return sorted(found, key=lambda probe: (probe.step, probe.name))


def accuracy_at(probe: ForkProbe, steps: int) -> float:
    """Mean accuracy of the ten batches before a number of steps; NaN of a probe that ended before."""
    if not WINDOW <= steps <= len(probe.accuracy):
        return math.nan
    return float(probe.accuracy[steps - WINDOW : steps].mean(dtype=np.float64))


# Transplants ----------------------------------------------------------------------------------------------------------


class Transplant(NamedTuple):
    """Copies with every subset of groups taken from a snapshot.

    groups [G]; taken (2^G, G) bool; accuracy, loss {set: (2^G,)} of the sets old, new, novel.
    """

    groups: list[str]
    taken: np.ndarray
    accuracy: dict[str, np.ndarray]
    loss: dict[str, np.ndarray]


def transplant(run: Run) -> Transplant:
    """The last transplant of a run.

    Raises
    ------
    DataError
        Where there is none, or its file is broken.
    """
    files = list((run.path / "transplant").glob("*.csv"))
    require(bool(files), f"{run.path}: no transplant/*.csv; the configuration needs an event of kind transplant")
    file = max(files, key=_last_step)
    rows = list(csv.reader(io.StringIO(read_text(file))))
    require(
        len(rows) > 1 and rows[0][:1] + rows[0][-3:] == ["step", "set", "accuracy", "loss"], f"{file}: no transplant"
    )
    groups, sets = rows[0][1:-3], list(dict.fromkeys(row[-3] for row in rows[1:] if len(row) == len(rows[0])))
    try:
        of_set = {name: [row for row in rows[1:] if row[-3] == name] for name in sets}
        taken = np.array([[int(word) for word in row[1:-3]] for row in of_set[sets[0]]], bool)
        numbers = {name: np.array([row[-2:] for row in found], np.float64) for name, found in of_set.items()}
    except (ValueError, IndexError):
        raise DataError(f"{file}: not a table of numbers") from None
    whole = all(len(table) == 2 ** len(groups) for table in numbers.values())
    require(whole, f"{file}: must hold all {2 ** len(groups)} subsets of {len(groups)} groups for each set")
    return Transplant(groups, taken, *({name: table[:, at] for name, table in numbers.items()} for at in (0, 1)))


def _last_step(file: Path) -> int:
    match = re.search(r"_(\d+)$", file.stem)
    return int(match.group(1)) if match else -1


# Linear probes --------------------------------------------------------------------------------------------------------


class Features(NamedTuple):
    """Hidden layers on novel sequences: at which step of the run; bits (S, L), position (P,), layers j: (S, P, W_j)."""

    name: str
    step: int
    bits: np.ndarray
    position: np.ndarray
    layers: Mapping[int, np.ndarray]


def features(run: Run) -> list[Features]:
    """All features of a run, by step; layers are read on first use."""
    found = []
    for folder in (run.path / "features").glob("*.*"):
        name, _, step = folder.name.rpartition(".")
        if not step.isdigit() or not (folder / "position.npy").is_file():
            continue
        bits, position = read_npy(folder / "sequences.npy", np.uint8, 2), read_npy(folder / "position.npy", np.int64, 1)
        files = {int(file.stem[len("layer_") :]): file for file in folder.glob("layer_*.npy")}
        layers = {layer: lambda file=file: read_npy(file, np.float32, 3) for layer, file in sorted(files.items())}
        found.append(Features(name, int(step), bits, position, Lazy(layers)))
    return sorted(found, key=lambda entry: (entry.step, entry.name))


class LinearProbe(NamedTuple):
    """What a linear probe of a layer found: accuracy on what it was fitted to and on what was held out; a guess's."""

    step: int
    layer: int
    target: str
    accuracy: float
    fitted: float
    chance: float
    num_train: int
    num_test: int


def linear_probe(entry: Features, layer: int, target: str = "sequence", sequences: int = 100) -> LinearProbe:
    """Fits a logistic regression (L2, C = 1, features scaled to unit variance) to the first novel sequences.

    `sequence`
        Which of them is it? Fitted at positions 0, 2, 4, ... of those that features hold, held out are the others: how
        far the sequences are linearly separable whatever has been read of them. Chance is 1 / sequences.
    `next_bit`
        The bit that follows. Fitted to the even sequences, held out are the odd ones; since bits are independent, the
        held-out accuracy of a sound network is 1/2, and `fitted` says how separable the bits are.

    Raises
    ------
    UsageError
        Where the features hold too little to hold anything out.
    """
    bits, values = entry.bits[:sequences], np.asarray(entry.layers[layer][:sequences], np.float64)
    count, positions, _ = values.shape
    if target == "sequence":
        labels = np.broadcast_to(np.arange(count)[:, None], (count, positions))
        training = np.broadcast_to(np.arange(positions) % 2 == 0, (count, positions))
    elif target == "next_bit":
        labels = bits[:, entry.position + 1]
        training = np.broadcast_to((np.arange(count) % 2 == 0)[:, None], (count, positions))
    else:
        raise UsageError(f"a target is one of {', '.join(TARGETS)}, got {target!r}")
    if count < 2 or training.all():
        raise UsageError(
            f"{entry.name}.{entry.step}: {count} sequences at {positions} positions leave nothing to hold out"
        )
    fitted, held_out = fit_and_score(values[training], labels[training], values[~training], labels[~training])
    chance = 1 / count if target == "sequence" else 0.5
    sizes = int(training.sum()), int((~training).sum())
    return LinearProbe(entry.step, layer, target, held_out, fitted, chance, *sizes)


def fit_and_score(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray
) -> tuple[float, float]:
    """Accuracy on both parts of a logistic regression fitted to the first; features (N, W), scaled as in training."""
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise CannotCreate("linear probes need scikit-learn (pip install 'mnemo[probe]')") from None
    mean, spread = train.mean(axis=0), train.std(axis=0)
    spread[spread == 0] = 1.0
    train, test = (train - mean) / spread, (test - mean) / spread
    if len(np.unique(train_labels)) == 1:
        return 1.0, float((test_labels == train_labels[0]).mean())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it stopped at max_iter moves no accuracy in its third digit
        model = LogisticRegression(C=1.0, max_iter=MAX_ITERATIONS).fit(train, train_labels)
    return float(model.score(train, train_labels)), float(model.score(test, test_labels))


def linear_probes(
    run: Run, targets: Sequence[str] = TARGETS, sequences: int = 100, layers: Sequence[int] | None = None
) -> list[LinearProbe]:
    """Of every step, layer and target."""
    entries = features(run)
    require(bool(entries), f"{run.path}: no features/; the configuration needs events of kind features")
    return [
        linear_probe(entry, layer, target, sequences)
        for entry in entries
        for layer in entry.layers
        if layers is None or layer in layers
        for target in targets
    ]
