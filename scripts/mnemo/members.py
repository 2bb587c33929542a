"""The members of a comparison: runs by their directories, seeds of one experiment together, all over the same ranks."""

from __future__ import annotations

import itertools
import json
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnemo import curves
from mnemo.errors import DataError, UsageError
from mnemo.files import PathLike
from mnemo.runs import Run, find_runs, flat, run_state

MAX_OPEN = 32  # runs whose arrays stay in memory, and whose mapped files stay open
APART = {"seed", "run", "threads", "device", "output", "slurm"}  # keys that do not make two runs different experiments
OBSERVERS = {"snapshot", "swap_test", "transplant", "fork_probe", "features"}  # events that change no curve


@dataclass(eq=False)
class Member:
    """One experiment: the runs of its seeds. `state` is None once they are done; `copies` repeat a run: (it, that)."""

    name: str
    runs: list[Run]
    config: dict[str, Any]
    facts: dict[str, Any]
    state: str | None = None
    copies: list[tuple[Path, Path]] = field(default_factory=list)


def experiment(config: Any) -> Any:
    """A configuration without what may differ between two seeds of one experiment."""
    if isinstance(config, dict):
        return {key: experiment(value) for key, value in config.items() if key not in APART}
    return [experiment(item) for item in config] if isinstance(config, list) else config


def short_names(paths: Sequence[Path]) -> list[str]:
    """The last directory names of each path, as many as tell all paths apart."""
    parts = [path.resolve().parts for path in paths]
    depth = 1
    while len({part[-depth:] for part in parts}) < len(set(parts)):
        depth += 1
    return ["/".join(part[-depth:]) for part in parts]


def _natural(name: str) -> list[tuple[float, str]]:
    """What sorts a name by the numbers in it."""
    parts = re.split(r"((?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)", name)  # every second one is a number
    return [(float(part) if odd else 0.0, "" if odd else part) for odd, part in zip(itertools.cycle((0, 1)), parts)]


def runs_in(folder: PathLike) -> list[Path]:
    """The run in this folder, or the runs one level below, `heads=5` before `heads=10`.

    One of several that has not begun, as a sweep in flight has them, is left out with a warning.

    Raises
    ------
    FileNotFoundError
        Where there is none.
    DataError
        Where none has begun.
    """
    found = sorted(find_runs(folder), key=lambda run: _natural(run.name))
    if not found:
        reason = "holds no run (no config.yaml in it or one level below)"
        raise FileNotFoundError(2, reason if Path(folder).exists() else "no such directory", str(folder))
    waiting = [run for run in found if run != Path(folder) and run_state(run) == "waiting"]
    if len(waiting) == len(found):
        raise DataError(f"{folder}: none of its runs has begun")
    for run in waiting:
        print(f"warning: {run}: has not begun, left out", file=sys.stderr)
    return [run for run in found if run not in waiting]


def find(arguments: Sequence[PathLike], each: bool = False, beside: Sequence[PathLike] = ()) -> list[Member]:
    """Runs, and the runs inside folders of runs, in the order given; seeds of one experiment together unless `each`.

    A run that is not done is a member of its own: another step is no other seed. Nor is a run with the data and weights
    of one before it: it goes into `copies`. Names also differ from those of the runs in `beside`.
    """
    paths: dict[Path, None] = {}
    for argument in arguments:
        paths.update(dict.fromkeys(runs_in(argument)))
    others = [path for argument in beside for path in find_runs(argument)]
    names = short_names([*paths, *others])
    return group([(name, Run(path)) for path, name in zip(paths, names)], each)


def group(named: Sequence[tuple[str, Run]], each: bool = False) -> list[Member]:
    """Members of runs with the names that they go by; see `find`."""
    result: dict[Any, Member] = {}
    originals: dict[Any, Path] = {}
    for name, run in named:
        state = unfinished(run)
        key = name if each or state else json.dumps(experiment(run.config), sort_keys=True)
        member = result.setdefault(key, Member(name, [], run.config, run.facts, state))
        original = originals.setdefault((key, random_numbers(run)), run.path)
        if original is run.path:
            member.runs.append(run)
        else:
            member.copies.append((run.path, original))
    found = list(result.values())
    names = [without_seed(member) for member in found]
    for member, name in zip(found, names):
        count = len(member.runs)
        member.name = name if names.count(name) == 1 else member.name
        member.name += f" ({member.state})" if member.state else f" ({count} seeds)" if count > 1 else ""
    return found


def without_seed(member: Member) -> str:
    """The name of a member of several seeds, `train.lr=0.1` for its `seed=0,train.lr=0.1`; of seeds alone the group's.

    Names of others stay.
    """
    folder, slash, name = member.name.rpartition("/")
    words = name.split(",")
    kept = ",".join(word for word in words if not word.startswith("seed="))
    if len(member.runs) == 1 or kept == name:
        return member.name
    return f"{folder}{slash}{kept}" if kept else folder or member.runs[0].path.resolve().parent.name


def relabel(compared: Sequence[Member], labels: Sequence[str]) -> None:
    """Gives members other names, one each; UsageError where that cannot be."""
    if len(labels) != len(compared) or len(set(labels)) < len(labels):
        names = ", ".join(member.name for member in compared)
        raise UsageError(f"--label wants another name for each of {len(compared)} members ({names}), got {labels}")
    for member, label in zip(compared, labels):
        member.name = label


def unfinished(run: Run) -> str | None:
    """None for a run that is done, else `stopped at step 2351 of 6000`."""
    state, step, steps = (str(run.status.get(key, "unknown")).replace("_", " ") for key in ("state", "step", "steps"))
    return None if state == "done" else f"{state} at step {step} of {steps}"


def random_numbers(run: Run) -> Any:
    """The seeds of data and of weights; the path where they are not known."""
    seeds = tuple(run.facts["seeds"].get(key) for key in ("data", "model"))
    return run.path if None in seeds else seeds


def begun(compared: Sequence[Member]) -> tuple[list[Member], list[str]]:
    """The members that were evaluated at all, and what to say of the others; all of them where none was."""

    def is_scored(run: Run) -> bool:
        return any(curves.phase_columns(run.sets, phase) for phase in range(len(run.switches) + 1))

    scored = {run for run in in_turn(all_runs(compared)) if is_scored(run)}
    found = [member for member in compared if scored.issuperset(member.runs)]
    others = (member.name for member in compared if member not in found)
    left_out = [f"left out: {name}: nothing has been evaluated yet" for name in others]
    return (found, left_out) if found else (list(compared), [])


def settings(member: Member) -> dict[str, Any]:
    """What tells a member from others: its settings by dotted names, but for those of `APART`."""
    return flat(experiment({key: value for key, value in member.config.items() if key not in ("name", "group")}))


def event_words(event: dict[str, Any]) -> str:
    """`freeze c_attn at 50%`: an event of run.json without its names."""
    when = "at" if event.get("at") is not None else "every"
    told = {"kind", "name", "at", "every", "step", "first", "last", "count", "parameters", "snapshot"}
    options = {key: value for key, value in event.items() if key not in told and value not in (None, False, "", [])}
    words = (value if isinstance(value, (str, list)) else f"{key}={value}" for key, value in options.items())
    words = (",".join(map(str, word)) if isinstance(word, list) else word for word in words)
    return " ".join([event["kind"], *words, when, str(event.get(when))])


def columns(compared: Sequence[Member]) -> dict[str, dict[str, Any]]:
    """{member: {setting: value}} of the settings that differ, None where a kind of model has no such setting.

    A setting differs where two members that have it have different values. `events` holds those that not all members
    have and that change curves; `seed` is there where members are single runs and nothing else tells two of them apart.
    """
    found = [settings(member) for member in compared]
    events = [[event_words(event) for event in member.config.get("events", []) if event["kind"] not in OBSERVERS]
              for member in compared]  # fmt: skip
    for of_member, words in zip(found, events):
        of_member["events"] = "; ".join(word for word in words if any(word not in others for others in events))
    names = [name for name in dict.fromkeys(itertools.chain(*found)) if _differs(name, found)]
    result = [{name: of_member.get(name) for name in names} for of_member in found]
    if all(len(member.runs) == 1 for member in compared) and any(result.count(values) > 1 for values in result):
        seeded = [{**values, "seed": member.config.get("seed")} for values, member in zip(result, compared)]
        result = seeded if _differs("seed", seeded) else result
    return {member.name: values for member, values in zip(compared, result)}


def _differs(name: str, settings: Sequence[dict[str, Any]]) -> bool:
    values = [of_member[name] for of_member in settings if name in of_member]
    return any(value != values[0] for value in values)


def differing_settings(compared: Sequence[Member]) -> list[str]:
    """Names of the settings in which members differ, see `columns`."""
    return list(next(iter(columns(compared).values()), {}))


class Scope(NamedTuple):
    """What is compared in each phase: the true ranks that every run in it has scored, and their bins."""

    ranks: dict[int, np.ndarray]
    bins: dict[int, list[curves.Bin]]
    most: dict[int, int]  # ranks that some run has scored
    never: dict[Path, int]  # ranks of a run that are never drawn

    def labels(self, phase: int) -> Iterator[dict[str, int]]:
        """Of each bin: first_rank, last_rank, and how many ranks of it were scored."""
        for first, end in self.bins[phase]:
            inside = np.searchsorted(self.ranks[phase], (first, end))
            yield {"first_rank": int(first), "last_rank": int(end) - 1, "ranks": int(inside[1] - inside[0])}


def scope_of(runs: Sequence[Run], edges: Sequence[int] | None) -> Scope:
    """The scope of runs, in bins of the smallest K or of --bins. A run says nothing of a phase it never reached.

    A rank that some run never draws is in no number.
    """
    common: dict[int, np.ndarray] = {}
    size, most, never = {}, {}, {}
    for whole in in_turn(runs):
        run = curves.only_drawn(whole)
        never[run.path] = run.num_sequences - curves.num_drawn(run)
        for phase in range(len(run.switches) + 1):
            columns = curves.phase_columns(run.sets, phase)
            if columns is not None:
                common[phase] = np.intersect1d(common.get(phase, columns["rank"]), columns["rank"])
                size[phase] = min(size.get(phase, run.num_sequences), run.num_sequences)
                most[phase] = max(most.get(phase, 0), len(columns["rank"]))
    bins = {phase: curves.rank_bins(size[phase], edges) for phase in common}
    for phase, rank in common.items():
        bins[phase] = curves.bins_with(rank, bins[phase]) or bins[phase]
    return Scope(common, bins, most, never)


def all_runs(compared: Sequence[Member]) -> list[Run]:
    return [run for member in compared for run in member.runs]


def in_turn(runs: Sequence[Run], among: int | None = None) -> Iterator[Run]:
    """Runs one after another; where they are many (`among` so many), each forgets then what was read of it."""
    for run in runs:
        yield run
        if (among or len(runs)) > MAX_OPEN:
            run.release()


def same_task(a: Member, b: Member) -> bool:
    """Whether accuracies of both are of the same thing: of bits, or of whole sequences."""
    return a.facts["model"]["task"] == b.facts["model"]["task"]


def notes(compared: Sequence[Member], scope: Scope, threshold: str) -> list[str]:
    """What a reader must know before comparing the members."""
    told = f"the last evaluation at which a bin's mean accuracy is below {threshold} to the first at which it is not"
    result = [f"presentations: mean over the ranks of a bin, from {told} (> x: not by x)"]
    for member in compared:
        if member.state:
            result.append(f"{member.name}: not done, so no seed among others; its end is the last evaluation it has")
        for path, original in member.copies:
            reason = f"data and weights are those of {original} (equal data.seed, model.seed)"
            result.append(f"{path}: left out, no other seed: {reason}")
    apart = "compared by presentations, each against its own ceiling"
    often = "of a noisy curve more frequent evaluations reach a threshold earlier"
    for block, key, what, so in (
        ("data", "length", "L", apart), ("data", "num_sequences", "K", apart),
        ("data", "zipf_exponent", "the Zipf exponent", apart), ("data", "file", "the data file", apart),
        ("train", "steps", "the number of steps", "the end is the last evaluation of each"),
        ("eval", "every", "eval.every", often),
    ):  # fmt: skip
        values = list(dict.fromkeys(member.config.get(block, {}).get(key) for member in compared))
        if len(values) > 1:
            result.append(f"{what} differs ({', '.join(map(str, values))}): {so}")
    result += _cut_ranks(scope)
    for member in compared:
        if curves.names_sequences(member.facts):
            result.append(f"{member.name}: names whole sequences: chance is 1/K; no stored bits")
    return result


def _cut_ranks(scope: Scope) -> Iterator[str]:
    """In which phases numbers are over fewer ranks than some run has scored, and which ranks are in none."""
    for path, never in scope.never.items():
        if never:
            yield f"{path}: {never} ranks have probability 0 and are never drawn: they are in no number"
    for phase, rank in scope.ranks.items():
        if len(rank) < scope.most[phase]:
            yield f"phase {phase}: numbers are over the {len(rank)} ranks that every run in it has scored"
