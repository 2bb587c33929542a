"""Has the engine carry out configurations, and finds the runs that they describe.

    runs = engine.carry_out(engine.configuration("quickstart.yaml"), Path("cache"))

The engine resumes what was interrupted and repeats nothing that is done, so that calling it again is all that going on
takes. A configuration with a `sweep:` block goes to `mnemo sweep`, any other to `mnemo train`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mnemo import sweeps
from mnemo.errors import EXIT_STOPPED, CannotCreate, DataError, MnemoError
from mnemo.files import parse_json
from mnemo.runs import Run

PROJECT = Path(__file__).resolve().parents[2]  # of a checkout; an installed package lies beside share/mnemo/configs
DIVERGED = 76  # the engine's exit code of a run that cannot go on; what it wrote is a result
ENDED = (*sweeps.FINISHED, "diverged")  # states in which there is nothing left to train


class EngineError(MnemoError):
    """The engine ended with an error, whose exit code this has; it has said why."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def program() -> str:
    """$MNEMO_PROGRAM, the build of this checkout, or `mnemo` from the path.

    Raises
    ------
    CannotCreate
        Where there is none.
    """
    built = PROJECT / "build/release/mnemo"
    named = os.environ.get("MNEMO_PROGRAM") or (str(built) if built.is_file() else None) or shutil.which("mnemo")
    if named is None:
        raise CannotCreate(f"the engine is not built: no {built}; build it with scripts/build.sh release mnemo")
    return named


def configuration(name: str) -> Path:
    """configs/NAME of this project; CannotCreate where it is not there."""
    path = PROJECT / "configs" / name
    if not path.is_file():
        raise CannotCreate(f"{path}: no such configuration; run this from a checkout of mnemo that has it")
    return path


def is_sweep(path: Path) -> bool:
    """Whether a configuration describes many runs: a block `sweep:` at its begin of a line."""
    return any(line.startswith("sweep:") for line in path.read_text(encoding="utf-8").splitlines())


def folder_of(path: Path, cache: Path) -> Path:
    """Where the results of a configuration are: cache/GROUP of a sweep, else cache/GROUP/RUN."""
    swept = is_sweep(path)
    given = ["sweep={}"] if swept else []
    asked = subprocess.run([program(), "config", str(path), *given, "--json"], capture_output=True, text=True)
    if asked.returncode != 0:
        raise EngineError((asked.stderr or asked.stdout).strip(), asked.returncode)
    settings = parse_json(asked.stdout, str(path))
    group = cache / settings["group"]
    return group if swept else group / settings["run"]


def command_of(path: Path, cache: Path, options: Sequence[str] = ()) -> list[str]:
    """What carries a configuration out; `options` (of sweeps alone: --launcher, --jobs) go to the engine."""
    verb, given = ("sweep", list(options)) if is_sweep(path) else ("train", [])
    return [program(), verb, str(path), "--cache", str(cache), *given]


def carry_out(path: Path, cache: Path, options: Sequence[str] = ()) -> list[Run]:
    """Trains what is missing of a configuration, and returns its runs.

    Raises
    ------
    EngineError
        Where the engine ends with an error, or was stopped (75): then the same call goes on.
    """
    folder, swept = folder_of(path, cache), is_sweep(path)
    if missing(folder, swept):
        code = call(command_of(path, cache, options))
        if code == EXIT_STOPPED:
            raise EngineError(f"{path.name} was stopped and saved; the same command goes on", code)
        if code not in (0, DIVERGED):
            raise EngineError(f"mnemo ended with {code} on {path}; it says why above", code)
    return runs_of(folder, swept)


def missing(folder: Path, swept: bool) -> bool:
    """Whether a run is not finished. Which runs a sweep has the engine alone knows, so it is always asked."""
    return swept or Run(folder).status.get("state") not in ENDED


def runs_of(folder: Path, swept: bool) -> list[Run]:
    """The finished runs of a configuration, of a sweep those in its manifest.

    Raises
    ------
    DataError
        Where there is none, or one is not finished.
    """
    if not swept:
        names = {folder: Run(folder).status.get("state", "missing")}
    elif sweeps.manifest(folder).is_file():
        names = {folder / run.name: run.state for run in sweeps.read_states(folder)}
    else:
        names = {}
    waiting = [path for path, state in names.items() if state not in ENDED]
    if waiting or not names:
        raise DataError(
            f"{folder}: {len(waiting) or 'all'} of its runs are not done; the same command draws when they are"
        )
    found = [Run(path) for path, state in names.items() if state in sweeps.FINISHED]
    if not found:
        raise DataError(f"{folder}: all of its runs diverged")
    return found


def call(command: Sequence[str]) -> int:
    """Runs the engine to its end; what it prints goes to stderr. Ctrl-C reaches it too, and it saves before it ends."""
    process = subprocess.Popen(list(command), stdout=sys.stderr.fileno() if _is_file(sys.stderr) else None)
    acts = {signal.SIGINT: lambda *_: None, signal.SIGTERM: lambda *_: process.terminate()}
    kept = {number: signal.signal(number, act) for number, act in acts.items()}
    try:
        return process.wait()
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)


def _is_file(stream: Any) -> bool:
    try:
        return stream.fileno() >= 0
    except (OSError, AttributeError, ValueError):
        return False
