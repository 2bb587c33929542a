#!/usr/bin/env python3
"""Speed of mnemo beside PyTorch and JAX: the same model, numbers, precision and threads, taken in turn in one run.

    scripts/bench_peers.py                                     # every configuration, one thread
    scripts/bench_peers.py one_layer --config A C --threads 2
    scripts/bench_peers.py evaluate --out results.json
    scripts/bench_peers.py dam --config S
    scripts/bench_peers.py sweep --threads 2                   # 16 learning rates of A and of C: run-steps per second

`mnemo bench --dump` hands out initial weights, sequences, batch ids and the losses of the first 20 steps. A peer whose
own losses differ by more than 1e-4 (5e-4 of an associative memory) gets no ratio, and the exit status is 65. Then
rounds are measured in turn, so that all see the same machine; a ratio is the median over rounds of (the peer's time /
mnemo's time). All run on the same number of processors (by affinity) and with the same malloc settings. PyTorch: eager
with fused Adam, and torch.compile of the whole step with the optimizer. JAX (pip install jax): jit of a scan over
steps. A step of a sweep is one of one run: whole jobs of mnemo, with launch, beside the steady steps of the peers.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import bench_dam_peers
import bench_sweep_peers
import mnemo_io
import numpy as np

TOLERANCE = 1e-4  # relative, of each of the first losses
DAM_TOLERANCE = 5e-4  # its peers take logarithms of float32 probabilities, which near 1 are 6e-8 apart
CONFIGS = {"one_layer": ["A", "B", "C"], "evaluate": ["A", "B", "L16"], "dam": ["S", "T"], "sweep": ["A", "C"]}
OWN_FORMS = {"mnemo": [], "mnemo, all units": ["--all-units"], "mnemo, all cells": ["--plain-cells"]}
HEADS = {"A": 1, "B": 2, "C": 4, "L16": 4}
ADAM = {"lr": 1e-3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
EVALUATED_ROWS = 500  # of a block: larger and smaller ones are slower for the peers
SCAN = 8  # steps of one JAX call
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}  # as mnemo's main() sets

# The peers ------------------------------------------------------------------------------------------------------------
# Each returns run(n): takes n more steps (or evaluations), and returns their losses.

Data = dict  # weights, sequences (K, L) int64, batches (steps, B), trains
Run = Callable[[int], list]


def torch_logits(weights: dict, bits, heads: int):
    """MATHS of the one-layer transformer: logits (B, L) of the next bit."""
    import torch.nn.functional as nn

    batch, length = bits.shape
    x = nn.embedding(bits, weights["wte.weight"]) + weights["wpe.weight"][:length]
    qkv = nn.linear(x, weights["c_attn.weight"], weights["c_attn.bias"])
    q, k, v = qkv.view(batch, length, 3, heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
    o = nn.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, length, -1)
    h = nn.layer_norm(o, o.shape[-1:], weights["ln_f.weight"], weights["ln_f.bias"], 1e-5)
    for j in range(sum(name.startswith("linear_modules") for name in weights) // 2):
        layer = nn.linear(h, weights[f"linear_modules.{j}.weight"], weights[f"linear_modules.{j}.bias"]).relu()
        h = layer + h if j else layer
    z = nn.linear(h, weights["lm_head.weight"], weights["lm_head.bias"])
    return z[..., 1] - z[..., 0]


def torch_loss(weights: dict, bits, heads: int):
    """Mean loss of the next bit."""
    from torch.nn.functional import binary_cross_entropy_with_logits as bce

    return bce(torch_logits(weights, bits[:, :-1], heads), bits[:, 1:].float())


@functools.cache
def compiled_step(heads: int) -> Callable:
    """The whole step as one compiled graph, which runs share."""
    import torch

    gradient = torch.func.grad_and_value(functools.partial(torch_loss, heads=heads))

    @torch.compile(fullgraph=True)
    def step(weights: dict, state: dict, bits, rate, correction1, correction2):
        gradients, loss = gradient(weights, bits)
        new_weights, new_state = {}, {}
        for name, g in gradients.items():
            m, v = state[name]
            m = ADAM["beta1"] * m + (1 - ADAM["beta1"]) * g
            v = ADAM["beta2"] * v + (1 - ADAM["beta2"]) * g * g
            update = (m / correction1) / ((v / correction2).sqrt() + ADAM["eps"])
            new_weights[name], new_state[name] = weights[name] - rate * update, (m, v)
        return new_weights, new_state, loss

    return step


def torch_peer(data: Data, heads: int, device: str, compiled: bool, rate: float = ADAM["lr"]) -> Run:
    """PyTorch; eager with torch.optim.Adam(fused=True), or the whole step as one compiled graph."""
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    sequences = torch.from_numpy(data["sequences"]).to(device)
    weights = {name: torch.tensor(array, device=device) for name, array in data["weights"].items()}
    batches = torch.from_numpy(data["batches"]).to(device)

    loss_of = functools.partial(torch_loss, heads=heads)

    if not data["trains"]:
        block_loss = torch.compile(loss_of) if compiled else loss_of

        def evaluate(times: int) -> list[float]:
            with torch.inference_mode(not compiled), torch.no_grad():
                for _ in range(times):
                    parts = [block_loss(weights, sequences[rows]) for rows in batches[0].split(EVALUATED_ROWS)]
                return [float(torch.stack(parts).mean())]

        return evaluate

    if compiled:
        state = {name: (torch.zeros_like(w), torch.zeros_like(w)) for name, w in weights.items()}
        step, learning_rate = compiled_step(heads), torch.tensor(rate, device=device)
    else:
        weights = {name: w.requires_grad_() for name, w in weights.items()}
        adam = torch.optim.Adam(weights.values(), lr=rate, eps=ADAM["eps"], fused=True)

    done = 0

    def run(steps: int) -> list[float]:
        nonlocal done, weights, state
        losses = []
        for _ in range(steps):
            bits = sequences[batches[done % len(batches)]]
            done += 1
            if compiled:
                corrections = (torch.tensor(1 - ADAM[name] ** done, device=device) for name in ("beta1", "beta2"))
                weights, state, loss = step(weights, state, bits, learning_rate, *corrections)
            else:
                loss = loss_of(weights, bits)
                adam.zero_grad()
                loss.backward()
                adam.step()
            losses.append(loss.detach())
        return torch.stack(losses).tolist()

    if not compiled:
        state = {}
    return run


def jax_peer(data: Data, heads: int, rate: float | list[float] = ADAM["lr"]) -> Run:
    """JAX: jit of a scan over SCAN steps, of many rates by vmap; the evaluation, jit of a map over blocks."""
    import jax
    import jax.numpy as jnp

    weights = {name: jnp.asarray(array) for name, array in data["weights"].items()}
    sequences, batches = jnp.asarray(data["sequences"]), data["batches"]
    num_layers = sum(name.startswith("linear_modules") for name in weights) // 2

    def loss_of(weights: dict, bits):
        inputs, targets = bits[:, :-1], bits[:, 1:]
        batch, length = inputs.shape
        x = weights["wte.weight"][inputs] + weights["wpe.weight"][:length]
        qkv = x @ weights["c_attn.weight"].T + weights["c_attn.bias"]
        q, k, v = jnp.moveaxis(qkv.reshape(batch, length, 3, heads, -1), 2, 0)
        scores = jnp.einsum("bihf,bjhf->bhij", q, k) / np.sqrt(q.shape[-1]).astype(np.float32)
        scores = jnp.where(jnp.tril(jnp.ones((length, length), bool)), scores, -jnp.inf)
        o = jnp.einsum("bhij,bjhf->bihf", jax.nn.softmax(scores), v).reshape(batch, length, -1)
        centred = o - o.mean(-1, keepdims=True)
        h = centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        h = h * weights["ln_f.weight"] + weights["ln_f.bias"]
        for j in range(num_layers):
            layer = jax.nn.relu(h @ weights[f"linear_modules.{j}.weight"].T + weights[f"linear_modules.{j}.bias"])
            h = layer + h if j else layer
        z = h @ weights["lm_head.weight"].T + weights["lm_head.bias"]
        logit = z[..., 1] - z[..., 0]
        return (jnp.maximum(logit, 0) - targets * logit + jnp.log1p(jnp.exp(-jnp.abs(logit)))).mean()

    if not data["trains"]:
        blocks = jnp.asarray(batches[0].reshape(-1, EVALUATED_ROWS))
        evaluate = jax.jit(lambda weights: jax.lax.map(lambda rows: loss_of(weights, sequences[rows]), blocks).mean())

        def run_evaluations(times: int) -> list[float]:
            for _ in range(times):
                loss = evaluate(weights).block_until_ready()
            return [float(loss)]

        return run_evaluations

    def step(carry, ids):
        weights, first, second, n, rate = carry
        loss, gradients = jax.value_and_grad(loss_of)(weights, sequences[ids])
        first = jax.tree.map(lambda m, g: ADAM["beta1"] * m + (1 - ADAM["beta1"]) * g, first, gradients)
        second = jax.tree.map(lambda v, g: ADAM["beta2"] * v + (1 - ADAM["beta2"]) * g * g, second, gradients)
        correction1, correction2 = 1 - ADAM["beta1"] ** (n + 1), 1 - ADAM["beta2"] ** (n + 1)
        weights = jax.tree.map(
            lambda w, m, v: w - rate * (m / correction1) / (jnp.sqrt(v / correction2) + ADAM["eps"]),
            weights, first, second,
        )  # fmt: skip
        return (weights, first, second, n + 1, rate), loss

    scan = functools.partial(jax.lax.scan, step)
    zeros = jax.tree.map(jnp.zeros_like, weights)
    carry, done = (weights, zeros, zeros, jnp.float32(0), jnp.float32(rate)), 0
    if np.ndim(rate):
        scan = jax.vmap(scan, in_axes=(0, None), out_axes=(0, 1))
        carry = (*jax.tree.map(lambda x: jnp.broadcast_to(x, (len(rate), *x.shape)), carry[:-1]), carry[-1])
    scan = jax.jit(scan)

    def run(steps: int) -> list[float]:
        nonlocal carry, done
        losses = []
        for _ in range(0, steps, SCAN):
            ids = jnp.asarray(batches[np.arange(done, done + SCAN) % len(batches)])
            carry, part = scan(carry, ids)
            done += SCAN
            losses.append(part)
        return np.concatenate(losses).tolist()

    return run


PEERS = {
    "torch eager": lambda data, heads, device: torch_peer(data, heads, device, compiled=False),
    "torch compile": lambda data, heads, device: torch_peer(data, heads, device, compiled=True),
    "jax": lambda data, heads, device: jax_peer(data, heads),
}


def torch_pack(data: Data, heads: int, device: str, compiled: bool) -> Run:
    """PyTorch: the runs of a sweep as one."""
    loss_of = functools.partial(torch_loss, heads=heads)
    return bench_sweep_peers.torch_pack(data, device, loss_of, ADAM, compiled)


one_a_core, RATES = bench_sweep_peers.one_a_core, bench_sweep_peers.RATES
SWEEP_PEERS = {
    "torch eager, one a core": lambda *of: one_a_core(lambda rate: torch_peer(*of, compiled=False, rate=rate)),
    "torch compile, one a core": lambda *of: one_a_core(lambda rate: torch_peer(*of, compiled=True, rate=rate)),
    "torch eager, pack": lambda *of: torch_pack(*of, compiled=False),
    "torch compile, pack": lambda *of: torch_pack(*of, compiled=True),
    "jax, one a core": lambda data, heads, device: one_a_core(lambda rate: jax_peer(data, heads, rate)),
    "jax, pack": lambda data, heads, device: jax_peer(data, heads, RATES),
}


def peers_of(benchmark: str) -> dict:
    """By name: functions of (data, heads, device)."""
    return {"dam": bench_dam_peers.PEERS, "sweep": SWEEP_PEERS}.get(benchmark, PEERS)


def worker(benchmark: str, peer: str, folder: Path, heads: int, device: str, threads: int, seconds: float) -> None:
    """One peer as a process: prints its first losses, then serves its rate."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    trains = len(np.load(folder / "losses.npy")) > 1
    data = {
        "weights": mnemo_io.read_safetensors(folder / "weights.safetensors"),
        "sequences": np.load(folder / "sequences.npy").astype(np.int64),
        "batches": np.load(folder / "batches.npy").astype(np.int64),
        "trains": trains,
    }
    # a memory stands beside the weights of its model; the slots are in memory.npy
    data["weights"] = {name: np.array(array) for name, array in data["weights"].items() if name != "memory"}
    if benchmark == "dam":
        data["memory"] = np.load(folder / "memory.npy").astype(np.int64)
    run = peers_of(benchmark)[peer](data, heads, device)
    sweeps = benchmark == "sweep"
    runs = len(RATES) if sweeps else 1
    losses = run(24 if trains else 1)
    print(json.dumps({"losses": bench_sweep_peers.compared(losses) if sweeps else losses}), flush=True)
    steps = SCAN if trains else 1

    def rate() -> float:
        nonlocal steps
        while True:
            start = perf_counter()
            run(steps)
            passed = perf_counter() - start
            if passed >= seconds / 2:
                return runs * steps / passed
            steps *= 2

    rate()
    serve(rate)


def serve(rate: Callable[[], float]) -> None:
    """Says that it is ready, then measures a rate for each line that it reads."""
    print(json.dumps({"ready": True}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"steps_per_s": rate()}), flush=True)
    peak = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    print(json.dumps({"peak_rss_mb": int(peak[0]) / 1024}), flush=True)


# The race -------------------------------------------------------------------------------------------------------------


class Contestant:
    """A process that measures a round whenever it is asked to."""

    def __init__(self, command: list[str], threads: int):
        processors = sorted(os.sched_getaffinity(0))[:threads]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **MALLOC},
            preexec_fn=lambda: os.sched_setaffinity(0, processors),
        )  # fmt: skip

    def read(self) -> dict:
        """Its next line; ValueError when it ended."""
        line = self.process.stdout.readline()
        if not line:
            raise ValueError(f"ended with status {self.process.wait()}")
        return json.loads(line)

    def round(self) -> float:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read()["steps_per_s"]

    def finish(self) -> dict:
        self.process.stdin.close()
        last = self.read()
        self.process.wait()
        return last


def disagreement(losses: list[float], reference: np.ndarray, tolerance: float = TOLERANCE) -> str:
    """Empty where the first losses are mnemo's to a relative tolerance; else what differs."""
    if len(losses) < len(reference):
        return f"only {len(losses)} losses"
    difference = np.abs(np.asarray(losses[: len(reference)]) - reference) / np.abs(reference)
    worst = int(np.argmax(np.where(np.isnan(difference), np.inf, difference)))
    return "" if difference[worst] <= tolerance else f"loss {worst} differs by {difference[worst]:.1e}"


def race(
    commands: dict[str, list[str]],
    reference: Callable[[str], list],
    threads: int,
    rounds: int,
    tolerance: float = TOLERANCE,
) -> list[dict]:
    """Measure contestants in turn; all are compared with the first of `commands`.

    `reference(form)` gives the first losses of those that do not print them. Returns rows {form, steps_per_s, min, max,
    slower_than_first, peak_rss_mb}, or {form, refused} where the losses are not those of the first.
    """
    contestants, refused, rates = {}, {}, {}
    first = next(iter(commands))
    for form, command in commands.items():
        contestant = Contestant(command, threads)
        try:
            line = contestant.read()
            losses = line["losses"] if "losses" in line else reference(form)
            problem = disagreement(losses, np.asarray(reference(first)), tolerance)
            if "losses" in line:
                contestant.read()  # ready
        except ValueError as error:
            problem = str(error)
        if problem:
            refused[form] = problem
            contestant.process.kill()
        else:
            contestants[form], rates[form] = contestant, []
    for _ in range(rounds):
        for form, contestant in contestants.items():
            rates[form].append(contestant.round())
    rows = []
    for form in commands:
        if form in refused:
            rows.append({"form": form, "refused": refused[form]})
            continue
        peak = contestants[form].finish().get("peak_rss_mb")
        row = {"form": form, "steps_per_s": median(rates[form]), "min": min(rates[form]), "max": max(rates[form])}
        slower = [own / other for own, other in zip(rates[first], rates[form])]
        row["slower_than_first"] = [median(slower), min(slower), max(slower)]
        rows.append({**row, "peak_rss_mb": peak})
    return rows


def processor_name() -> str:
    """From /proc/cpuinfo: model name, with family and model where the name alone says little."""
    info = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    return f"{info.get('model name', platform.processor())}, family {info.get('cpu family')} model {info.get('model')}"


def has_jax() -> bool:
    return subprocess.run([sys.executable, "-c", "import jax"], capture_output=True).returncode == 0


def run_config(options: argparse.Namespace, config: str, threads: int, peers: list[str]) -> list[dict]:
    """All forms of one configuration."""
    with tempfile.TemporaryDirectory() as scratch:
        folders = {form: Path(scratch) / str(index) for index, form in enumerate(OWN_FORMS)}
        common = [
            "--config",
            config,
            "--threads",
            str(threads),
            "--device",
            options.device,
            "--seconds",
            str(options.seconds),
        ]
        commands = {}
        for form, flags in OWN_FORMS.items():
            if options.benchmark != "one_layer" and form == "mnemo, all units":
                continue
            commands[form] = [
                options.mnemo, "bench", options.benchmark, "--json", "--paced", "--rounds", str(options.rounds),
                "--dump", str(folders[form]), *common, *flags,
            ]  # fmt: skip
        for peer in peers:
            commands[peer] = [
                sys.executable, __file__, options.benchmark, "--worker", peer, "--data", str(folders["mnemo"]),
                *common,
            ]  # fmt: skip
        tolerance = DAM_TOLERANCE if options.benchmark == "dam" else TOLERANCE
        rows = race(
            commands, lambda form: np.load(folders[form] / "losses.npy").tolist(), threads, options.rounds, tolerance
        )
    return [
        {"name": options.benchmark, "config": config, "threads": threads, "device": options.device, **row}
        for row in rows
    ]


def run_sweep(options: argparse.Namespace, config: str, cores: int, peers: list[str]) -> list[dict]:
    """As run_config, of whole sweeps: the rates are of all runs together."""
    steps = options.steps or bench_sweep_peers.STEPS[config]
    tmpfs = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=tmpfs) as folder:
        losses = bench_sweep_peers.prepare(options.mnemo, Path(folder), config, HEADS[config], cores, steps)
        problem = disagreement(losses[:, bench_sweep_peers.BENCH_RUN].tolist(), np.load(f"{folder}/losses.npy"))
        if problem:
            raise ValueError(f"mnemo sweep trains otherwise than mnemo bench: {problem}")
        common = [
            sys.executable, __file__, "sweep", "--config", config, "--threads", str(cores), "--data", folder,
            "--seconds", str(options.seconds), "--steps", str(steps), "--mnemo", options.mnemo, "--worker",
        ]  # fmt: skip
        commands = {form: [*common, form] for form in [*bench_sweep_peers.OWN_FORMS, *peers]}
        rows = race(commands, lambda form: bench_sweep_peers.compared(losses), cores, options.rounds)
    facts = {"name": "sweep", "config": config, "threads": cores, "device": "cpu", "runs": len(RATES), "steps": steps}
    for row in rows:
        row.pop("peak_rss_mb", None)  # that of one process, where many work
    return [{**facts, **row} for row in rows]


def print_table(rows: list[dict]) -> None:
    """Milliseconds, and how many times slower than mnemo; the best peer is marked."""
    peers = [row for row in rows if not row["form"].startswith("mnemo") and "refused" not in row]
    best = max(peers, key=lambda row: row["steps_per_s"], default=None)
    for row in rows:
        title = f"{row['name']} {row['config']:<4} {row['threads']} threads  {row['form']:<25}"
        if "refused" in row:
            print(f"{title} refused: {row['refused']}")
            continue
        ratio, low, high = row["slower_than_first"]
        print(
            f"{title} {1e3 / row['steps_per_s']:9.3f} ms ({1e3 / row['max']:.3f} to {1e3 / row['min']:.3f})"
            f"  x{ratio:.2f} ({low:.2f} to {high:.2f}){'  <- best peer' if row is best else ''}"
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("benchmark", nargs="?", choices=list(CONFIGS), default="one_layer")
    parser.add_argument("--config", dest="configs", nargs="+", help="default: all of the benchmark")
    parser.add_argument("--threads", type=int, nargs="+", help="default: 1; of a sweep, its cores, 2")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a round, at least half of this")
    parser.add_argument("--steps", type=int, help="of a sweep: those of each run in mnemo's timed jobs, 20 or more")
    parser.add_argument("--peers", nargs="*", help="some of those that a run without this shows; default: all")
    parser.add_argument("--mnemo", default=str(Path(__file__).parent.parent / "build/release/mnemo"))
    parser.add_argument("--out", type=Path, help="JSON file; what it holds of other configurations stays")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    options = mnemo_io.parse_arguments(parser, None)
    configs = options.configs or CONFIGS[options.benchmark]
    sweeps = options.benchmark == "sweep"
    options.threads = options.threads or [2 if sweeps else 1]
    if options.worker in bench_sweep_peers.OWN_FORMS:
        job = options.worker, options.mnemo, options.data, options.threads[0], options.steps
        serve(functools.partial(bench_sweep_peers.job_rate, *job))
        return 0
    if options.worker:
        worker(
            options.benchmark,
            options.worker,
            options.data,
            HEADS.get(configs[0], 0),
            options.device,
            options.threads[0],
            options.seconds,
        )
        return 0
    known = peers_of(options.benchmark)
    peers = list(known) if options.peers is None else options.peers
    unknown = [*(set(configs) - set(CONFIGS[options.benchmark])), *(set(peers) - set(known))]
    if unknown:
        return mnemo_io.usage_error(f"unknown: {', '.join(unknown)}; peers: {', '.join(known)}")
    if sweeps and (options.device != "cpu" or (options.steps or 20) < 20):
        return mnemo_io.usage_error("a sweep is measured on cpu, in 20 steps or more")
    if any("jax" in peer for peer in peers) and not has_jax():
        print("JAX is not installed (pip install jax): measured without it")
        peers = [peer for peer in peers if "jax" not in peer]
    rows = []
    for config in configs:
        for threads in options.threads:
            rows.append((run_sweep if sweeps else run_config)(options, config, threads, peers))
            print_table(rows[-1])
    flat = [row for group in rows for row in group]
    if options.out:
        write_results(options.out, flat)
    return mnemo_io.EXIT_DATA if any("refused" in row for row in flat) else 0


def write_results(path: Path, rows: list[dict]) -> None:
    """Rows by (benchmark, configuration, threads, device); older ones of other configurations stay."""

    def key(row: dict) -> tuple:
        return row["name"], row["config"], row["threads"], row["device"]

    old = json.loads(path.read_text())["rows"] if path.exists() else []
    fresh = {key(row) for row in rows}
    kept = [row for row in old if key(row) not in fresh]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join("  " + json.dumps(row) for row in sorted(kept + rows, key=key))
    path.write_text(f'{{"processor": {json.dumps(processor_name())},\n "rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    sys.exit(mnemo_io.guarded(main))
