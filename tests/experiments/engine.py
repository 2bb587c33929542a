"""Drives the binary as users do, in caches of its own, and compares what it leaves behind.

`MNEMO_BINARY` names another binary than build/release/mnemo.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY / "scripts"))

import mnemo_io  # noqa: E402

BINARY = Path(os.environ.get("MNEMO_BINARY", REPOSITORY / "build" / "release" / "mnemo")).resolve()
DONE, USAGE, DATA, LOCKED, CANNOT_CREATE, IO, STOPPED, CONFIG = 0, 64, 65, 69, 73, 74, 75, 78
Mount = Callable[[str], Path]  # fixture `mount`: a disk of these options
PATIENCE = 60.0  # seconds that a busy machine is given before a test gives up

# Everything that can meet meets at the step of the switch; log_every divides nothing.
CONFIG_TEXT = """\
name: tiny
threads: 1
device: cpu
data:  {{num_sequences: 20, length: 8}}
model: {{kind: one_layer_attention, heads: 1, head_dim: 8, mlp_layers: 1}}
train: {{steps: {steps}, batch_size: 8, lr: 1.0e-2, log_every: 7}}
eval:  {{every: 20, novel: 10}}
events:
  - {{kind: freeze,   at: {early}, params: [mlp]}}
  - {{kind: snapshot, at: {half}, name: before}}
  - {{kind: switch,   at: {half}}}
  - {{kind: freeze,   at: {half}, name: freeze_attention, params: [c_attn]}}
  - {{kind: unfreeze, at: {half}, params: [mlp]}}
  - {{kind: snapshot, at: end, name: last}}
output: {{checkpoint_minutes: {checkpoint_minutes}, keep: {keep}}}
"""
# Says when and how, not what. config.yaml and run.json name the output settings, in which compared runs may differ.
PROCESS_FILES = {"meta.json", "status.json", "timing.jsonl", "log.txt", "LOCK", "config.yaml", "run.json"}


@dataclass
class Place:
    """A folder with a configuration and a cache."""

    root: Path
    steps: int
    cache: Path

    @property
    def config(self) -> Path:
        return self.root / "tiny.yaml"

    @property
    def run(self) -> Path:
        return self.cache / "tiny" / "tiny"

    @property
    def checkpoints(self) -> list[Path]:
        """Newest first."""
        return sorted((self.run / "checkpoints").glob("step_*.safetensors"), key=point_of, reverse=True)

    def command(self, *arguments: str) -> list[str]:
        return [str(BINARY), "train", str(self.config), "--cache", str(self.cache), *arguments]

    def train(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        return call(self.command(*arguments), **options)

    def start(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        return start(self.command(*arguments), **options)

    def status(self) -> dict[str, Any]:
        return json.loads((self.run / "status.json").read_text())

    def wait_for_step(self, process: subprocess.Popen[str], step: int = 20) -> None:
        """Until the process has trained on for a while, which metrics.jsonl shows."""
        metrics = self.run / "metrics.jsonl"
        lines = step // 7
        wait_for(lambda: metrics.exists() and metrics.read_bytes().count(b"\n") >= lines, process)


def make_place(
    root: Path, steps: int, checkpoint_minutes: float = 5, keep: int = 2, cache: Path | None = None
) -> Place:
    place = Place(root, steps, cache if cache is not None else root / "cache")
    root.mkdir(parents=True, exist_ok=True)
    text = CONFIG_TEXT.format(
        steps=steps, early=steps // 4, half=steps // 2, checkpoint_minutes=checkpoint_minutes, keep=keep
    )
    place.config.write_text(text)
    return place


def point_of(path: Path) -> tuple[int, int]:
    match = re.fullmatch(r"step_(\d+)\.(\d+)\.safetensors", path.name)
    assert match is not None, path
    return int(match.group(1)), int(match.group(2))


def environment(**changes: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in ("MNEMO_CACHE", "NO_COLOR")}
    return {**inherited, "OMP_WAIT_POLICY": "passive", "TERM": "xterm", **changes}


def call(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    options.setdefault("env", environment())
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, **options)


def start(command: Sequence[str], **options: Any) -> subprocess.Popen[str]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": environment(), **options}
    return subprocess.Popen(command, **options)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if process is not None and process.poll() is not None and not condition():
            raise AssertionError(f"the process ended with {process.returncode}: {process.communicate()}")
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


def uninterrupted(root: Path, steps: int) -> dict[str, bytes]:
    """Results of a run that nothing stops."""
    place = make_place(root, steps)
    done = place.train()
    assert done.returncode == DONE, done.stderr
    return results(place.run)


def results(run: Path) -> dict[str, bytes]:
    """Relative path -> bytes of all that a resumed run promises to share with an uninterrupted one."""
    files = (path for path in run.rglob("*") if path.is_file())
    relative = {str(path.relative_to(run)): path for path in files}
    return {
        name: path.read_bytes()
        for name, path in sorted(relative.items())
        if path.name not in PROCESS_FILES and not name.startswith("checkpoints/")
    }


def assert_same_results(run: Path, expected: dict[str, bytes]) -> None:
    actual = results(run)
    assert sorted(actual) == sorted(expected)
    assert [name for name in expected if actual[name] != expected[name]] == []


def assert_whole(run: Path) -> None:
    """Nothing is half-written under its final name. (LOCK and log.txt are for people.)"""
    for path in run.rglob("*"):
        if path.suffix == ".npy":
            array = np.load(path, mmap_mode="r" if path.stat().st_size > 128 else None)
            assert array.dtype.kind in "iuf", path
        elif path.suffix == ".safetensors":
            mnemo_io.read_safetensors(path)
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        elif path.suffix == ".jsonl":
            for line in path.read_bytes().split(b"\n")[:-1]:
                json.loads(line)
    if not (run / "config.yaml").exists():
        return
    for columns in mnemo_io.read_run(run)["sets"].values():
        rows = len(columns["step"])
        assert all(len(columns[name]) == rows for name in ("phase", "loss", "accuracy", "presentations", "last_seen"))
