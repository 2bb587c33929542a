"""Contestants of a benchmark: processes that say their first losses, then measure a round whenever they are asked to.

Lines of JSON: {"losses"}, {"ready"}, {"steps_per_s"} for each line read, and {"peak_rss_mb"} at the end; or
{"refused"}, and the end.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}  # as mnemo's main() sets
ON_GPU = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TORCHINDUCTOR_COMPILE_THREADS": "4"}  # many share card and cores
UNPINNED = ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE")  # a contestant's precision is what it was told
NO_MEMORY = "out of memory"


# In a contestant ------------------------------------------------------------------------------------------------------


def say(**line: object) -> None:
    """One line to who started it."""
    print(json.dumps(line), flush=True)


def serve(rate: Callable[[], float]) -> None:
    """Says that it is ready, then measures a rate for each line that it reads."""
    say(ready=True)
    for _ in sys.stdin:
        say(steps_per_s=rate())
    peak = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    say(peak_rss_mb=int(peak[0]) / 1024)


# The race -------------------------------------------------------------------------------------------------------------


class Contestant:
    """A process; `processors`: those that it may use."""

    def __init__(self, command: Sequence[str], processors: Sequence[int], on_gpu: bool = False):
        environment = {key: value for key, value in os.environ.items() if key not in UNPINNED or not on_gpu}
        environment.update(MALLOC, **(ON_GPU if on_gpu else {}))
        self.errors = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, env=environment,
            preexec_fn=lambda: os.sched_setaffinity(0, processors),
        )  # fmt: skip
        self.lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def read(self, seconds: float | None = None) -> dict:
        """Its next line; ValueError when it ended, was refused, or said nothing for so long."""
        try:
            line = self.lines.get(timeout=seconds)
        except queue.Empty:
            raise ValueError(f"not ready after {seconds:.0f} s") from None
        if not line:
            raise ValueError(f"ended with status {self.process.wait()}{self._last_words()}")
        answer = json.loads(line)
        if "refused" in answer:
            raise ValueError(answer["refused"])
        return answer

    def _last_words(self) -> str:
        self.errors.seek(0)
        lines = self.errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def round(self, seconds: float | None = None) -> float:
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        return self.read(seconds)["steps_per_s"]

    def finish(self) -> dict:
        self.process.stdin.close()
        last = self.read()
        self.process.wait()
        return last

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


def disagreement(losses: Sequence, reference: Sequence, tolerance: float) -> str:
    """Empty where the first losses are mnemo's to a relative tolerance; else what differs. One a step, or R."""
    if len(losses) < len(reference):
        return f"only {len(losses)} losses"
    own, reference = np.asarray(losses[: len(reference)], dtype=float), np.asarray(reference, dtype=float)
    if own.shape != reference.shape:
        return f"losses {own.shape}, not {reference.shape}"
    difference = np.abs(own - reference) / np.abs(reference)
    difference = np.where(np.isnan(difference), np.inf, difference).reshape(len(reference), -1).max(1)
    worst = int(np.argmax(difference))
    shown = np.nan if np.isinf(difference[worst]) else difference[worst]
    return "" if difference[worst] <= tolerance else f"loss {worst} differs by {shown:.1e}"


class Race:
    """Contestants of one configuration, from their start to a table's rows; all are compared with the first.

    Parameters
    ----------
    commands
        By form; the first makes what the others read, so that they start when it is ready.
    reference
        reference(form): the first losses of those that do not print them.
    processors
        Those of each contestant.
    at_once
        Start all together: they share a GPU and many cores. Else one after another.
    patience
        Seconds until a contestant must be ready.
    """

    def __init__(
        self, commands: dict[str, list[str]], reference: Callable[[str], list], processors: Sequence[int],
        tolerance: float, at_once: bool = False, patience: float | None = None,
    ):  # fmt: skip
        self.forms, self.refused = list(commands), {}
        self.reference, self.tolerance, self.patience = reference, tolerance, patience
        self.contestants: dict[str, Contestant] = {}
        waiting: dict[str, Contestant] = {}
        for form, command in commands.items():
            if form != self.forms[0] and self.forms[0] in self.refused:
                self.refused[form] = f"{self.forms[0]} was refused"
                continue
            waiting[form] = Contestant(command, processors, on_gpu=at_once)
            if form == self.forms[0] or not at_once:
                self._admit(form, waiting.pop(form))
        for form, contestant in waiting.items():
            self._admit(form, contestant)

    def _admit(self, form: str, contestant: Contestant) -> None:
        try:
            line = contestant.read(self.patience)
            losses = line["losses"] if "losses" in line else self.reference(form)
            problem = disagreement(losses, self.reference(self.forms[0]), self.tolerance)
            if "losses" in line:
                contestant.read(self.patience)  # ready
        except ValueError as error:
            problem = str(error)
        if problem:
            self._refuse(form, contestant, problem)
        else:
            self.contestants[form] = contestant

    def _refuse(self, form: str, contestant: Contestant, problem: str) -> None:
        self.refused[form] = problem
        self.contestants.pop(form, None)
        contestant.kill()

    def run(self, rounds: int, scale: float = 1) -> list[dict]:
        """Measures in turn, and ends all.

        Returns rows {form, steps_per_s, min, max, slower_than_first, peak_rss_mb}, or {form, refused}. `scale`: steps
        of one in a step of theirs.
        """
        rates: dict[str, list[float]] = {form: [] for form in self.forms}
        for _ in range(rounds):
            for form, contestant in list(self.contestants.items()):
                try:
                    rates[form].append(scale * contestant.round(self.patience))
                except ValueError as error:
                    self._refuse(form, contestant, str(error))
        return [self._row(form, rates[form], rates[self.forms[0]]) for form in self.forms]

    def _row(self, form: str, rates: list[float], first: list[float]) -> dict:
        if form in self.refused:
            return {"form": form, "refused": self.refused[form]}
        peak = self.contestants[form].finish().get("peak_rss_mb")
        row = {"form": form, "steps_per_s": median(rates), "min": min(rates), "max": max(rates)}
        slower = [own / other for own, other in zip(first, rates)]
        return {**row, "slower_than_first": [median(slower), min(slower), max(slower)], "peak_rss_mb": peak}
