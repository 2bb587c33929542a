"""Write a finished DAM run as the record that notebooks load: a torch archive. `mnemo export` calls it; needs torch.

A log is named by the update of its phase at which it begins: 0, log_every, ... Its loss and accuracy are means over the
updates from there to the next log, its measures those at the end of them.
Letters: N bits a sequence, H heads, K sequences, m stored sequences, T log lines.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mnemo import curves
from mnemo.errors import DataError
from mnemo.files import read_npy, write_atomically
from mnemo.runs import Run, open_run

MEASURES = {  # (N,) in a record's logs: the file in measures/, of raw logits over all N entries; NaN where undefined
    "A_logits_mean": "A_raw_logits_mean",
    "B_logits_mean": "B_logits_mean",
    "A_correlation_offdiag_mean": "A_raw_correlation_offdiag_mean",
}
PARAMETERS = {"A": "A_logits", "B": "B_logits"}  # by group
FREEZE_WORDS = {"": "LearnAB", "A": "True", "AB": "False", "B": "FreezeB"}  # by what is frozen after the switch
RETRIEVAL_WORD = "BothAB"  # instead of "False"

Event = dict


# Events ---------------------------------------------------------------------------------------------------------------


def events_until(run: Run, step: int) -> Iterator[tuple[int, Event]]:
    """(step, event) up to and at a step in the order in which they happened; of a repeated event the last time."""
    found = []
    for event in run.config["events"]:
        every = event.get("every")
        at = min(step, event["last"]) // every * every if every else event["step"]
        if at <= step and not (every and at == 0):
            found.append((at, event))
    yield from sorted(found, key=lambda entry: entry[0])


def acts_on(event: Event, group: str) -> bool:
    """Whether an event means a group's parameter; one without patterns means all."""
    return PARAMETERS[group] in event.get("parameters", PARAMETERS.values())


def freeze_word(run: Run, step: int) -> str:
    """`is_freeze_A`: what stands still once the events of a step are over."""
    frozen: set[str] = set()
    for _, event in events_until(run, step):
        if event["kind"] in ("freeze", "unfreeze"):
            meant = {group for group in PARAMETERS if acts_on(event, group)}
            frozen = frozen | meant if event["kind"] == "freeze" else frozen - meant
    whole = curves.names_sequences(run.facts)
    return RETRIEVAL_WORD if len(frozen) == 2 and whole else FREEZE_WORDS["".join(sorted(frozen))]


def has_fresh_optimizer(run: Run, step: int) -> bool:
    """Whether B begins a step with a fresh Adam."""
    resets = (event for at, event in events_until(run, step) if at == step and event.get("reset_optimizer"))
    return any(acts_on(event, "B") for event in resets)


def snapshot_before(run: Run, switch: int) -> dict[str, np.ndarray]:
    """The snapshot that an event took at the step of the switch, before it emptied the memory."""
    for at, event in events_until(run, switch):
        if at == switch and event["kind"] == "switch":
            break
        if at == switch and event["kind"] == "snapshot":
            name = event["snapshot"].format(step=at)
            if name in run.snapshots:
                return run.snapshots[name]
    raise DataError(
        f"{run.path}: has no snapshot of the end of the first phase, whose weights and memory a record holds; "
        f"put {{kind: snapshot, at: {switch}}} before the switch among the events and run again"
    )


# The record -----------------------------------------------------------------------------------------------------------


def model_state(run: Run, tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A_logits (N, H, N), B_logits (H, N), and memory (m, N) of -1 and 1 in their type, oldest first."""
    N, H = run.config["data"]["length"], run.config["model"]["heads"]
    for name, shape in {"A_logits": (N, H, N), "B_logits": (H, N)}.items():
        if name not in tensors or tensors[name].shape != shape:
            raise DataError(f"{run.path}: the weights at the end of the first phase hold no {name} {shape}")
    bits = tensors.get("memory")
    if bits is None and not run.facts["model"]["has_memory"]:  # the sequences are the memory
        bits = run.sequences.get(0)
    if bits is None or bits.ndim != 2 or bits.shape[1] != N:
        raise DataError(f"{run.path}: the memory at the end of the first phase was not kept")
    state = {name: np.array(tensors[name]) for name in PARAMETERS.values()}
    return {**state, "memory": 2 * bits.astype(state["A_logits"].dtype) - 1}


def read_measures(run: Run) -> dict[str, np.ndarray]:
    """{name in a log: (T, N)}, a row for each log line."""
    folder, length = run.path / "measures", run.config["data"]["length"]
    files = [f"measures/{name}.npy" for name in ("step", *MEASURES.values())]
    missing = [name for name in files if not (run.path / name).is_file()]
    missing += [] if "A_sharpness" in run.metrics else ["A_sharpness in metrics.jsonl"]
    if missing:
        raise DataError(
            f"{run.path}: has no measures of A and B, which the logs of a record hold: {missing[0]} is missing. "
            "Trained again with this version of mnemo it has them"
        )
    step = read_npy(folder / "step.npy", np.int64, 1)
    if not np.array_equal(step, run.metrics["step"]):
        raise DataError(f"{folder / 'step.npy'}: its steps are not those of metrics.jsonl")
    measures = {name: read_npy(folder / f"{file}.npy", np.float32, 2) for name, file in MEASURES.items()}
    for name, array in measures.items():
        if array[: len(step)].shape != (len(step), length):
            raise DataError(f"{folder / MEASURES[name]}.npy: must be {(len(step), length)}, is {array.shape}")
    return measures


def mean(row: np.ndarray) -> np.float32:
    """Mean of the numbers in a row, NaN where there are none."""
    return row[~np.isnan(row)].mean() if not np.isnan(row).all() else np.float32(np.nan)


def logs_of(run: Run) -> list[dict[str, Any]]:
    """One entry a log line; `eval` is all that comes after the first switch."""
    measures, metrics = read_measures(run), run.metrics
    switch = run.switches[0]["step"] if run.switches else None
    logs, begin = [], 0
    for row, end in enumerate(metrics["step"].tolist()):
        first = switch is None or end <= switch
        log = {"step": begin if first else max(0, begin - switch), "loss": float(metrics["train_loss"][row])}
        log.update(accuracy=np.float32(metrics["train_accuracy"][row]), phase="train" if first else "eval")
        log.update(A_sharpness=np.float32(metrics["A_sharpness"][row]))
        log.update({name: np.array(array[row]) for name, array in measures.items()})
        log.update({f"{name}_mean": mean(array[row]) for name, array in measures.items()})
        logs.append(log)
        begin = end
    return logs


def record_of(run: Run, name: str) -> dict[str, Any]:
    """args, logs, model_state_dict of NumPy arrays. DataError says what the run lacks for it.

    Parameters
    ----------
    run
        Without a switch all logs are `train` and the weights the final ones.
    name
        What the record calls itself (`prefix`).
    """
    model, data, train = (run.config[block] for block in ("model", "data", "train"))
    if model.get("kind") != "dam":
        raise DataError(f"{run.path}: is a run of {model.get('kind')}; a record of this kind is made of a DAM's")
    if not run.switches and not run.final:
        raise DataError(f"{run.path}: is not over (it has no final.safetensors)")
    end = run.switches[0]["step"] if run.switches else train["steps"]
    word = freeze_word(run, end)
    args = argparse.Namespace(
        eta=float(model["eta"]), lr=float(train["lr"]), INIT_STD=float(model["init_std"]), N=data["length"],
        H=model["heads"], K=data["num_sequences"], BATCH_SIZE=train["batch_size"], NUM_STEPS=end,
        M=model["capacity"] if run.facts["model"]["has_memory"] else data["num_sequences"],
        NUM_ITERS_PER_LOG=train["log_every"], savedir=str(run.config.get("group")), prefix=name,
        is_freeze_A=word, device=str(run.meta.get("device", "cpu")),
    )  # fmt: skip
    tensors = snapshot_before(run, end) if run.switches else run.final
    return {"args": args, "logs": logs_of(run), "model_state_dict": model_state(run, tensors)}


def remarks(run: Run, args: argparse.Namespace) -> Iterator[str]:
    """What a reader of a record would take for granted, and is not so."""
    if args.NUM_ITERS_PER_LOG != 1:
        yield (f"has a log every {args.NUM_ITERS_PER_LOG} steps, but cells that draw accuracy against the step take "
               "the number of a log for it: train with log_every: 1 for them")  # fmt: skip
    if args.is_freeze_A == "FreezeB":
        yield "only B is frozen, for which records have no word: is_freeze_A is 'FreezeB'"
    if args.is_freeze_A == "True" and not has_fresh_optimizer(run, args.NUM_STEPS):
        yield "is_freeze_A is 'True', but B went on with the Adam it had (the events have no reset_optimizer)"


def export(run_directory: Path, target: Path) -> Iterator[str]:
    """Writes a run's record, atomically and the same bytes each time; gives remarks on it."""
    import torch

    run = open_run(run_directory)
    record = record_of(run, target.stem)
    record["model_state_dict"] = {name: torch.from_numpy(a) for name, a in record["model_state_dict"].items()}
    for name in MEASURES:  # one storage for all logs: an archive has an entry for each
        for log, row in zip(record["logs"], torch.from_numpy(np.stack([log[name] for log in record["logs"]]))):
            log[name] = row
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(target, lambda file: torch.save(record, file))
    yield from remarks(run, record["args"])
