"""A sweep over learning rates beside what else trains as many small runs on a few cores: contestants of bench_peers.py.

The runs differ in RATES alone: the same sequences, draws and initial weights. Contestants of mnemo are timed as whole
jobs, from launch to the last file, without evaluations and on tmpfs where there is one; peers as steady steps, without
imports and compilation. R runs.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from time import perf_counter

import bench_layer_peers
import mnemo_io
import numpy as np

RATES = [float(f"{10 ** (n / 5 - 5):.3g}") for n in range(16)]  # 1e-5 to 1e-2
BENCH_RUN = RATES.index(1e-3)  # the one that `mnemo bench --dump` trains
STEPS = {"A": 400, "C": 2000}  # of each run in a timed job: about 9 s of `mnemo sweep` on two idle cores
SWEEP, PARALLEL, SERIAL = OWN_FORMS = "mnemo sweep", "mnemo train, one a core", "mnemo train, in turn"
Data = dict
Run = bench_layer_peers.Run  # of every run: losses (n, R)


def compared(losses: Sequence) -> list[float]:
    """Of losses (n, R): 20 of the run that `mnemo bench` knows, and 4 of each; later, large rates amplify rounding."""
    table = np.asarray(losses)
    return [*table[:20, BENCH_RUN].tolist(), *table[:4].flatten().tolist()]


# mnemo ----------------------------------------------------------------------------------------------------------------


def run_job(form: str, mnemo: str, config: Path, cache: Path, cores: int) -> float:
    """All runs, into a new cache. Returns the seconds from launch to end."""
    options = ["--cache", str(cache), "--progress", "none"]
    commands = [[mnemo, "train", str(config), f"train.lr={rate}", *options] for rate in RATES]
    if form == SWEEP:
        axis = f"train.lr={','.join(map(str, RATES))}"
        commands = [[mnemo, "sweep", str(config), axis, "--jobs", str(cores), *options]]
    launch = partial(subprocess.run, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    start = perf_counter()
    with ThreadPoolExecutor(cores if form == PARALLEL else 1) as pool:
        results = list(pool.map(launch, commands))
    seconds = perf_counter() - start
    for result in results:
        if result.returncode:
            raise ValueError(f"{shlex.join(result.args)}: status {result.returncode}: {result.stderr.strip()}")
    return seconds


def job_rate(form: str, mnemo: str, folder: Path, cores: int, steps: int) -> float:
    """Steps a second of all runs together, of one whole job of `steps` steps a run."""
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        return len(RATES) * steps / run_job(form, mnemo, folder / "config.yaml", Path(cache), cores)


def write_config(folder: Path, name: str, heads: int, steps: int, log_every: int) -> Path:
    """The configuration of the `mnemo bench --dump` in `folder`, as a run that writes as little as it can."""
    num_sequences, length = np.load(folder / "sequences.npy").shape
    weights = mnemo_io.read_safetensors(folder / "weights.safetensors")
    config = {
        "name": "sweep",
        "threads": 1,
        "device": "cpu",
        "data": {"num_sequences": num_sequences, "length": length},
        "model": {
            "kind": "one_layer_attention",
            "heads": heads,
            "head_dim": len(weights["ln_f.weight"]) // heads,
            "mlp_layers": bench_layer_peers.num_layers(weights),
        },
        "train": {"steps": steps, "batch_size": np.load(folder / "batches.npy").shape[1], "log_every": log_every},
        "eval": {"every": steps, "train_stride": num_sequences, "validation_stride": num_sequences, "novel": 0},
        "output": {"sequences": False, "pickle": "none", "checkpoint_minutes": 1e6},
    }
    (folder / name).write_text(json.dumps(config))
    return folder / name


def first_losses(sweep: Path, single: Path, steps: int) -> np.ndarray:
    """Losses (steps, R) of the runs in two caches; ValueError where a metrics.jsonl is not equal in all bytes."""
    losses = {}
    for file in sweep.glob("sweep/*/metrics.jsonl"):
        if file.read_bytes() != (single / file.relative_to(sweep)).read_bytes():
            raise ValueError(f"{file.parent.name}: mnemo sweep and mnemo train write different metrics.jsonl")
        metrics = mnemo_io.read_metrics(file)
        losses[metrics["lr"][0]] = metrics["train_loss"][:steps]
    return np.transpose([losses[rate] for rate in RATES])


def prepare(mnemo: str, folder: Path, config: str, heads: int, cores: int, steps: int) -> np.ndarray:
    """Fills `folder` with what workers read; the first losses (steps of --dump, R), equal in `sweep` and `train`."""
    dump = ["bench", "one_layer", "--config", config, "--dump", str(folder), "--warmup", "0", "--rounds", "1"]
    subprocess.run([mnemo, *dump, "--seconds", "0.001"], check=True, stdout=subprocess.DEVNULL)
    write_config(folder, "config.yaml", heads, steps, log_every=100)
    checked = write_config(folder, "checked.yaml", heads, steps, log_every=1)
    caches = {form: folder / form for form in (SWEEP, PARALLEL)}
    for form, cache in caches.items():
        run_job(form, mnemo, checked, cache, cores)
    return first_losses(caches[SWEEP], caches[PARALLEL], len(np.load(folder / "losses.npy")))


# The peers ------------------------------------------------------------------------------------------------------------


def _serve_share(pipe, parents, core: int, make: Callable[[float], Run], rates: Sequence[float]) -> None:
    parents.close()  # a pipe ends with the process at its other end, where no other holds a copy
    os.sched_setaffinity(0, {core})
    runs = [make(rate) for rate in rates]
    with contextlib.suppress(EOFError, ConnectionResetError):
        while True:
            steps = pipe.recv()
            pipe.send([run(steps) for run in runs])


def one_a_core(make: Callable[[float], Run], rates: Sequence[float] = RATES) -> Run:
    """A process on each core, with its share of the runs, each of which takes its steps in turn; `make` a run."""
    cores, fork = sorted(os.sched_getaffinity(0)), multiprocessing.get_context("fork")
    pipes = []
    for index, core in enumerate(cores):
        pipe, childs = fork.Pipe()
        share = (childs, pipe, core, make, rates[index :: len(cores)])
        fork.Process(target=_serve_share, args=share, daemon=True).start()
        childs.close()
        pipes.append(pipe)

    def run(steps: int) -> list:
        for pipe in pipes:
            pipe.send(steps)
        losses = np.empty((steps, len(rates)))
        for index, pipe in enumerate(pipes):
            losses[:, index :: len(cores)] = np.transpose(pipe.recv())
        return losses.tolist()

    return run


def pack_of(data: Data) -> Data:
    """The same weights in every run."""
    weights = {name: np.repeat(array, len(RATES), 0) for name, array in data["weights"].items()}
    return {**data, "weights": weights}


def _one_a_core(peer: Callable, data: Data, device: str) -> Run:
    return one_a_core(lambda rate: peer(data, device, rate=rate))


def _pack(peer: Callable, data: Data, device: str) -> Run:
    return peer(pack_of(data), device, rate=RATES)


# by name: functions of (data, device)
PEERS = {
    f"{name}, {way}": partial(make, bench_layer_peers.PEERS[name])
    for way, make in (("one a core", _one_a_core), ("pack", _pack))
    for name in ("torch eager", "torch compile", "jax")
}
