#!/usr/bin/env python3
"""Speed of mnemo beside PyTorch and JAX: the same model, numbers, precision and threads, taken in turn in one run.

    scripts/bench_peers.py                                     # every configuration, one thread
    scripts/bench_peers.py one_layer --config A C --threads 2
    scripts/bench_peers.py evaluate --out results.json
    scripts/bench_peers.py dam --config S
    scripts/bench_peers.py gpt --config A
    scripts/bench_peers.py sweep --threads 2                   # 16 learning rates of A and of C: run-steps per second
    scripts/bench_peers.py --device cuda --precision tf32 --replicas 1 8 64

`mnemo bench --dump` hands out initial weights, sequences, batch ids and the losses of the first 20 steps. A peer whose
own losses differ by more than TOLERANCE gets no ratio, and the exit status is 65. Then rounds are measured in turn, so
that all see the same machine; a ratio is the median over rounds of (the peer's time / mnemo's time). All run on the
same number of processors (by affinity; on a GPU: all) and with the same malloc settings. PyTorch: eager with fused
Adam, a whole step as a CUDA graph, and torch.compile of the whole step with the optimizer (on a GPU: max-autotune).
JAX (pip install jax): jit of a scan over steps. Replicas that step together ("pack"): torch.func.vmap, jax.vmap; a step
is one of one replica. A step of a sweep is one of one run: whole jobs of mnemo, with launch, beside the steady steps of
the peers. On a GPU results go to tests/bench/results/<GPU>_<precision>.json; without one the exit status is 78.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import monotonic, perf_counter
from typing import NamedTuple

import bench_dam_peers
import bench_gpt_peers
import bench_layer_peers
import bench_machine
import bench_race
import bench_steps
import bench_sweep_peers
import mnemo_io
import numpy as np

# Relative, of each of the first losses. Peers of a memory take logarithms of float32 probabilities, which near 1 are
# 6e-8 apart. TF32 keeps 11 bits of what it multiplies, and Adam makes steps of the sign of what is left of a gradient
# near 0: 20 steps drift up to 4e-3 from float32's. That a peer is right is seen in fp32, where it is the same code.
TOLERANCE = {"fp32": 1e-4, "tf32": 1e-2}
DAM_TOLERANCE = {"fp32": 5e-4, "tf32": 2e-2}
CONFIGS = {
    "cpu": {
        "one_layer": ["A", "B", "C"],
        "gpt": ["A", "C"],
        "evaluate": ["A", "B", "L16"],
        "dam": ["S", "T"],
        "sweep": ["A", "C"],
    },
    "cuda": {
        "one_layer": ["A", "D", "B", "C", "E"],
        "gpt": ["A", "C"],
        "evaluate": ["D", "L16"],
        "dam": ["S", "U", "W", "V"],
    },
}
OWN_FORMS = {"mnemo": [], "mnemo, all units": ["--all-units"], "mnemo, all cells": ["--plain-cells"]}
HEADS = {"A": 1, "B": 2, "C": 4, "D": 1, "E": 18, "L16": 4}
GPT_HEADS = 4
DISTINCT = ("W",)  # memories of all but distinct sequences: counts save nothing, and rare probabilities are near 0
TOGETHER = {"cpu": 1, "cuda": 3}  # configurations whose contestants start while others do; all are measured in turn
PATIENCE = 240.0  # seconds on a GPU until a contestant must be ready


class Job(NamedTuple):
    """What is measured together."""

    name: str
    config: str
    threads: int
    device: str
    precision: str = "fp32"
    replicas: int = 1


def peers_of(benchmark: str, device: str = "cpu", replicas: int = 1) -> dict:
    """By name: functions of (data, device)."""
    known = bench_layer_peers.PEERS if replicas == 1 else bench_layer_peers.PACK_PEERS
    own = {"dam": bench_dam_peers.PEERS, "gpt": bench_gpt_peers.PEERS, "sweep": bench_sweep_peers.PEERS}
    known = own.get(benchmark, known)
    if device == "cuda":
        return {name: peer for name, peer in known.items() if "loop" not in name}  # as many kernels as positions
    return {name: peer for name, peer in known.items() if not any(word in name for word in ("graph", "folded"))}


# A peer's process -----------------------------------------------------------------------------------------------------


def read_data(job: Job, folder: Path) -> dict:
    """What `mnemo bench --dump` wrote: weights (R, ...), sequences, batches, and of a memory the ids in its slots."""
    files = [folder / f"weights{'' if r == 0 else f'_{r}'}.safetensors" for r in range(job.replicas)]
    parts = [mnemo_io.read_safetensors(file) for file in files]
    known = len(np.load(folder / "losses.npy"))
    data = {
        # a memory stands beside the weights of its model; the slots are in memory.npy
        "weights": {name: np.stack([part[name] for part in parts]) for name in parts[0] if name != "memory"},
        "sequences": np.load(folder / "sequences.npy").astype(np.int64),
        "batches": np.load(folder / "batches.npy").astype(np.int64),
        "trains": known > 1,
        "known": known,
        "heads": GPT_HEADS if job.name == "gpt" else HEADS.get(job.config, 0),
        "precision": job.precision,
    }
    if job.name == "dam":
        data["memory"] = np.load(folder / "memory.npy").astype(np.int64)
    return data


def worker(job: Job, peer: str, folder: Path, seconds: float) -> None:
    """One peer as a process: prints its first losses, then serves its rate; or says that memory does not suffice."""
    sweeps = job.name == "sweep"
    try:
        data = read_data(job, folder)
        run = peers_of(job.name, job.device, job.replicas)[peer](data, job.device)
        losses = run(data["known"])
        bench_race.say(losses=bench_sweep_peers.compared(losses) if sweeps else losses)
        steps = bench_steps.SCAN[job.device] if data["trains"] and "jax" in peer else 1

        def rate() -> float:
            nonlocal steps
            while True:
                start = perf_counter()
                run(steps)
                passed = perf_counter() - start
                if passed >= seconds / 2:
                    return (len(bench_sweep_peers.RATES) if sweeps else 1) * steps / passed
                steps *= 2

        rate()
        bench_race.serve(rate)
    except Exception as error:
        if not bench_steps.is_out_of_memory(error):
            raise
        bench_race.say(refused=f"{bench_race.NO_MEMORY}: {str(error).splitlines()[0][:200]}")


# The race -------------------------------------------------------------------------------------------------------------


def commands_of(options: argparse.Namespace, job: Job, peers: list[str], folder: Path) -> dict[str, list[str]]:
    """By form: mnemo's, whose --dump folders are named after them, then the peers."""
    common = ["--config", job.config, "--threads", str(job.threads), "--device", job.device]
    common += ["--replicas", str(job.replicas), "--seconds", str(options.seconds)]
    if job.device == "cuda":
        common += ["--precision", job.precision]
    commands = {}
    for form, flags in OWN_FORMS.items():
        if form == "mnemo, all units" and (job.name != "one_layer" or job.device == "cuda"):
            continue
        commands[form] = [
            options.mnemo, "bench", job.name, "--json", "--paced", "--rounds", str(options.rounds),
            "--dump", str(folder / form), *common, *flags,
        ]  # fmt: skip
    for peer in peers:
        commands[peer] = [
            sys.executable, __file__, job.name, "--worker", peer, "--data", str(folder / "mnemo"), *common,
        ]  # fmt: skip
    return commands


def wanted(job: Job, peers: list[str] | None) -> list[str]:
    """Those of a job, of the named ones if some are named."""
    known = [name for name in peers_of(job.name, job.device, job.replicas) if peers is None or name in peers]
    return [name for name in known if not (job.config in DISTINCT and "counts" in name)]


def tolerance_of(job: Job) -> float:
    if job.name != "dam":
        return TOLERANCE[job.precision]
    return DAM_TOLERANCE[job.precision] * (10 if job.config in DISTINCT else 1)


def folder_of(command: list[str]) -> Path:
    """Where a form of mnemo writes what peers read."""
    return Path(command[command.index("--dump") + 1])


def start(options: argparse.Namespace, job: Job, commands: dict[str, list[str]]) -> bench_race.Race:
    """All forms of one configuration, ready to be measured."""
    on_gpu = job.device == "cuda"
    processors = sorted(os.sched_getaffinity(0))
    return bench_race.Race(
        commands,
        lambda form: np.load(folder_of(commands[form]) / "losses.npy").tolist(),
        processors if on_gpu else processors[: job.threads],
        tolerance_of(job),
        at_once=on_gpu,
        patience=PATIENCE if on_gpu else None,
    )


def again_alone(options: argparse.Namespace, job: Job, peers: list[str], rows: list[dict]) -> list[dict]:
    """Rows, once more of those that ran out of memory beside the others: each beside mnemo alone."""
    for index, row in enumerate(rows[1:], 1):
        if bench_race.NO_MEMORY in row.get("refused", "") and "refused" not in rows[0] and len(rows) > 2:
            with tempfile.TemporaryDirectory() as scratch:
                commands = commands_of(options, job, peers, Path(scratch))
                pair = {form: commands[form] for form in (rows[0]["form"], row["form"])}
                rows[index] = start(options, job, pair).run(options.rounds, job.replicas)[-1]
    return rows


def run_jobs(options: argparse.Namespace, jobs: list[Job], peers: dict[Job, list[str]]) -> list[dict]:
    """Starts the contestants of all jobs together, and measures job after job."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(len(jobs)) as pool:
        commands = [commands_of(options, job, peers[job], Path(scratch) / str(index)) for index, job in enumerate(jobs)]
        races = list(pool.map(functools.partial(start, options), jobs, commands))
        measured = [race.run(options.rounds, job.replicas) for job, race in zip(jobs, races)]
    for job, found in zip(jobs, measured):
        rows.append([{**job._asdict(), **row} for row in again_alone(options, job, peers[job], found)])
        print_table(rows[-1])
    return [row for group in rows for row in group]


def run_sweep(options: argparse.Namespace, job: Job, peers: list[str]) -> list[dict]:
    """As run_jobs, of whole sweeps: the rates are of all runs together."""
    steps = options.steps or bench_sweep_peers.STEPS[job.config]
    tmpfs = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=tmpfs) as folder:
        heads = HEADS[job.config]
        losses = bench_sweep_peers.prepare(options.mnemo, Path(folder), job.config, heads, job.threads, steps)
        own, known = losses[:, bench_sweep_peers.BENCH_RUN].tolist(), np.load(f"{folder}/losses.npy").tolist()
        if problem := bench_race.disagreement(own, known, TOLERANCE["fp32"]):
            raise ValueError(f"mnemo sweep trains otherwise than mnemo bench: {problem}")
        common = [
            sys.executable, __file__, "sweep", "--config", job.config, "--threads", str(job.threads), "--data", folder,
            "--seconds", str(options.seconds), "--steps", str(steps), "--mnemo", options.mnemo, "--worker",
        ]  # fmt: skip
        commands = {form: [*common, form] for form in [*bench_sweep_peers.OWN_FORMS, *peers]}
        processors = sorted(os.sched_getaffinity(0))[: job.threads]
        compared = bench_sweep_peers.compared(losses)
        rows = bench_race.Race(commands, lambda form: compared, processors, TOLERANCE["fp32"]).run(options.rounds)
    for row in rows:
        row.pop("peak_rss_mb", None)  # that of one process, where many work
    rows = [{**job._asdict(), "runs": len(bench_sweep_peers.RATES), "steps": steps, **row} for row in rows]
    print_table(rows)
    return rows


def print_table(rows: list[dict]) -> None:
    """Milliseconds, and how many times slower than mnemo; the best peer of each job is marked."""
    for _, group in itertools.groupby(rows, bench_machine.key_of):
        group = list(group)
        peers = [row for row in group if not row["form"].startswith("mnemo") and "refused" not in row]
        best = max(peers, key=lambda row: row["steps_per_s"], default=None)
        for row in group:
            name, config, threads, device, precision, replicas = bench_machine.key_of(row)
            place = f"{threads} threads" if device == "cpu" else precision
            title = f"{name} {config:<4} {place:<10} R={replicas:<3} {row['form']:<31}"
            if "refused" in row:
                print(f"{title} refused: {row['refused']}")
                continue
            ratio, low, high = row["slower_than_first"]
            print(
                f"{title} {1e3 / row['steps_per_s']:9.4g} ms ({1e3 / row['max']:.4g} to {1e3 / row['min']:.4g})"
                f"  x{ratio:.2f} ({low:.2f} to {high:.2f}){'  <- best peer' if row is best else ''}",
                flush=True,
            )


def print_facts(about: dict) -> None:
    for title, value in about.items():
        text = ", ".join(f"{name} {said}" for name, said in value.items()) if isinstance(value, dict) else value
        print(f"{title}: {text or 'not known (no nvidia-smi)'}")


# The command ----------------------------------------------------------------------------------------------------------


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="?", choices=list(CONFIGS["cpu"]), default="one_layer")
    parser.add_argument("--config", dest="configs", nargs="+", help="default: all of the benchmark on the device")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1; of a sweep, its cores, 2")
    parser.add_argument("--device", choices=list(CONFIGS), default="cpu")
    parser.add_argument("--precision", choices=list(TOLERANCE), default="fp32", help="tf32: on a GPU alone")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1], help="of one_layer: models that step together")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, help="length of a round, at least half of this; default: 1; cuda: 0.2")
    parser.add_argument("--steps", type=int, help="of a sweep: those of each run in mnemo's timed jobs, 20 or more")
    parser.add_argument("--peers", nargs="*", help="some of those that a run without this shows; default: all")
    parser.add_argument("--mnemo", default=str(Path(__file__).parent.parent / "build/release/mnemo"))
    parser.add_argument("--out", type=Path, help="JSON file, on cuda or its folder; what it holds of others stays")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start nothing after; 75 if some are left")
    parser.add_argument("--missing", action="store_true", help="only what the file lacks")
    parser.add_argument("--together", type=int, help="configurations that start together; default: 1; cuda: 3")
    parser.add_argument("--show", type=Path, nargs="+", metavar="FILE", help="only the tables of such files")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    return parser


def jobs_of(options: argparse.Namespace) -> list[Job]:
    """In the order in which they are measured."""
    threads = options.threads or [2 if options.benchmark == "sweep" else 1]
    configs = options.configs or CONFIGS[options.device][options.benchmark]
    of_all = itertools.product(options.replicas, configs, threads)
    return [Job(options.benchmark, c, t, options.device, options.precision, r) for r, c, t in of_all]


def what_is_wrong(options: argparse.Namespace) -> str:
    """A usage error, or nothing."""
    known = {config for configs in CONFIGS.values() for config in configs.get(options.benchmark, [])}
    peers = {peer for r in options.replicas for peer in peers_of(options.benchmark, options.device, r)}
    unknown = [*(set(options.configs or []) - known), *(set(options.peers or []) - peers)]
    if unknown:
        return f"unknown: {', '.join(sorted(unknown))}; peers: {', '.join(sorted(peers))}"
    if options.benchmark == "sweep" and (options.device != "cpu" or (options.steps or 20) < 20):
        return "a sweep is measured on cpu, in 20 steps or more; on cuda: one_layer --replicas"
    if options.benchmark != "one_layer" and options.replicas != [1]:
        return "replicas are of one_layer"
    if min(options.replicas) < 1 or len(set(options.replicas)) < len(options.replicas):
        return "replicas are different numbers from 1"
    if options.precision != "fp32" and options.device == "cpu":
        return f"{options.precision} is of cuda"
    return ""


def main() -> int:
    options = mnemo_io.parse_arguments(make_parser(), None)
    for file in options.show or []:
        found = bench_machine.read_results(file)
        print(f"\n{file.name}: {found.get('gpu', found['processor'])}")
        print_table(found["rows"])
    if options.show:
        return 0
    options.seconds = options.seconds or {"cpu": 1.0, "cuda": 0.2}[options.device]
    if problem := what_is_wrong(options):
        return mnemo_io.usage_error(problem)
    jobs = jobs_of(options)
    if options.worker:
        processors = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, processors[: jobs[0].threads] if options.device == "cpu" else processors)
        if options.worker in bench_sweep_peers.OWN_FORMS:
            job = options.worker, options.mnemo, options.data, jobs[0].threads, options.steps
            bench_race.serve(functools.partial(bench_sweep_peers.job_rate, *job))
        else:
            worker(jobs[0], options.worker, options.data, options.seconds)
        return 0
    return measure(options, jobs)


def measure(options: argparse.Namespace, jobs: list[Job]) -> int:
    """All jobs in groups, each group's rows in the file as soon as they are there."""
    if options.device == "cuda":
        try:
            bench_machine.gpu_name()
        except ValueError as error:
            print(f"error: no GPU: {error}", file=sys.stderr)
            return mnemo_io.EXIT_CONFIG
        options.out = options.out or Path(__file__).parent.parent / "tests/bench/results"
        if options.out.suffix != ".json":
            options.out = bench_machine.results_file(options.out, options.precision)
    peers = {job: wanted(job, options.peers) for job in jobs}
    if any("jax" in peer for names in peers.values() for peer in names):
        if reason := bench_machine.why_no_jax(options.device):
            print(f"{reason}: measured without it")
            peers = {job: [name for name in names if "jax" not in name] for job, names in peers.items()}
    if options.missing and options.out:
        there = {bench_machine.key_of(row) for row in bench_machine.read_results(options.out)["rows"]}
        jobs = [job for job in jobs if bench_machine.key_of(job._asdict()) not in there]
    about, begin, status = bench_machine.facts(options.device, options.mnemo), monotonic(), 0
    print_facts(about)
    together = options.together or TOGETHER[options.device]
    for first in range(0, len(jobs), together):
        if monotonic() - begin > 60 * options.minutes:
            left = ", ".join(f"{job.name} {job.config} R={job.replicas}" for job in jobs[first:])
            print(f"no time left for: {left}; the same command with --missing goes on")
            status = mnemo_io.EXIT_STOPPED
            break
        group = jobs[first : first + together]
        sweeps = options.benchmark == "sweep"
        rows = run_sweep(options, group[0], peers[group[0]]) if sweeps else run_jobs(options, group, peers)
        if any("refused" in row for row in rows):
            status = mnemo_io.EXIT_DATA
        if options.out:
            bench_machine.write_results(options.out, rows, about)
    if options.device == "cuda":
        print_facts({"clocks at the end": bench_machine.clocks()})
    return status


if __name__ == "__main__":
    sys.exit(mnemo_io.guarded(main))
