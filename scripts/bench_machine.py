"""What a benchmark ran on, and the file of its results."""

from __future__ import annotations

import contextlib
import functools
import json
import platform
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "jax", "jaxlib", "triton", "numpy")
GPU = """
import torch
assert torch.cuda.is_available(), f"PyTorch {torch.__version__} (CUDA {torch.version.cuda}) finds none"
print(torch.cuda.get_device_name())
"""
CLOCKS = ("clocks.sm", "clocks.max.sm", "clocks.mem", "power.limit", "temperature.gpu", "driver_version")


def _python(code: str) -> subprocess.CompletedProcess:
    """In a process of its own: this one stays free of CUDA."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def processor_name() -> str:
    """From /proc/cpuinfo: model name, with family and model where the name alone says little."""
    info = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        info.setdefault(key.strip(), value.strip())
    return f"{info.get('model name', platform.processor())}, family {info.get('cpu family')} model {info.get('model')}"


@functools.cache
def gpu_name() -> str:
    """Of the first GPU that PyTorch can use; ValueError: why there is none."""
    done = _python(GPU)
    if done.returncode:
        raise ValueError(done.stderr.strip().splitlines()[-1].removeprefix("AssertionError: "))
    return done.stdout.strip()


def why_no_jax(device: str) -> str:
    """Empty where JAX can use the device."""
    done = _python(f"import jax; jax.config.update('jax_platforms', {device!r}); jax.devices()")
    if not done.returncode:
        return ""
    reason = done.stderr.strip().splitlines()[-1]
    return "JAX is not installed (pip install jax)" if "No module named 'jax'" in reason else f"JAX: {reason[:200]}"


def clocks() -> dict[str, str]:
    """Of the GPU as nvidia-smi tells them; empty without it."""
    query = ["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    return dict(zip(CLOCKS, done.stdout.strip().split(", "))) if done.returncode == 0 else {}


def facts(device: str, mnemo: str) -> dict:
    """Processor, versions, and where a GPU computes its name and clocks."""
    version = subprocess.run([mnemo, "--version"], capture_output=True, text=True).stdout.strip()
    found = {"python": platform.python_version(), "mnemo": version}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    described = {"processor": processor_name(), "versions": found}
    return described if device == "cpu" else {**described, "gpu": gpu_name(), "clocks": clocks()}


def results_file(folder: Path, precision: str) -> Path:
    """<GPU>_<precision>.json."""
    return folder / f"{re.sub(r'[^a-z0-9]+', '_', gpu_name().lower()).strip('_')}_{precision}.json"


def key_of(row: dict) -> tuple:
    """Benchmark, configuration, threads, device, precision, replicas: what is measured together."""
    defaults = {"precision": "fp32", "replicas": 1}
    names = ("name", "config", "threads", "device", "precision", "replicas")
    return tuple(row.get(name, defaults.get(name)) for name in names)


def read_results(path: Path) -> dict:
    return json.loads(path.read_text()) if path.exists() else {"rows": []}


def write_results(path: Path, rows: list[dict], about: dict) -> None:
    """Older rows of other configurations stay; `about`: the facts of the newest."""
    old, fresh = read_results(path)["rows"], {key_of(row) for row in rows}
    kept = [row for row in old if key_of(row) not in fresh]
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ",\n".join("  " + json.dumps(row) for row in sorted(kept + rows, key=key_of))
    head = "".join(f"{json.dumps(key)}: {json.dumps(value)},\n " for key, value in about.items())
    path.write_text(f'{{{head}"rows": [\n{lines}\n]}}\n')


if __name__ == "__main__":  # for scripts/gpu_check.sh
    try:
        print(gpu_name(), *clocks().values(), sep=", ")
    except ValueError as error:
        print(error)
        sys.exit(78)
