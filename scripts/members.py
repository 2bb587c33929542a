"""The members of a comparison: runs by their directories, seeds of one experiment together, all over the same ranks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import curves
import mnemo_io
import numpy as np

Member = dict  # {"name": str, "paths": [Path, ...], "config": {...}}

APART = {"seed", "run", "threads", "device", "output", "slurm"}  # keys that do not make two runs different experiments


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


def runs_in(folder: mnemo_io.PathLike) -> list[Path]:
    """The run in this folder, or the runs one level below; FileNotFoundError where there is none."""
    found = mnemo_io.find_runs(folder)
    if not found:
        reason = "holds no run (no config.yaml in it or one level below)"
        raise FileNotFoundError(2, reason if Path(folder).exists() else "no such directory", str(folder))
    return found


def find(
    arguments: Sequence[mnemo_io.PathLike], each: bool = False, beside: Sequence[mnemo_io.PathLike] = ()
) -> list[Member]:
    """Runs, and the runs inside folders of runs, in the order given; seeds of one experiment together unless `each`.

    Their names also differ from those of the runs in `beside`.
    """
    paths: dict[Path, None] = {}
    for argument in arguments:
        paths.update(dict.fromkeys(runs_in(argument)))
    result: dict[Any, Member] = {}
    others = [path for argument in beside for path in runs_in(argument)]
    for path, name in zip(paths, short_names([*paths, *others])):
        config = mnemo_io.read_config(path / "config.yaml")
        key = name if each else json.dumps(experiment(config), sort_keys=True)
        result.setdefault(key, {"name": name, "paths": [], "config": config})["paths"].append(path)
    for member in result.values():
        count = len(member["paths"])
        member["name"] += f" ({count} seeds)" if count > 1 else ""
    return list(result.values())


def flat(config: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Settings by their dotted names."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        elif not isinstance(value, list) or not any(isinstance(item, dict) for item in value):
            yield prefix + key, value


def differing_settings(compared: Sequence[Member]) -> list[str]:
    """Names of the settings that tell the members apart."""
    settings = [dict(flat(experiment(member["config"]))) for member in compared]
    names = dict.fromkeys(name for setting in settings for name in setting if name not in ("name", "group"))
    return [name for name in names if any(setting.get(name) != settings[0].get(name) for setting in settings)]


def common_ranks(paths: Sequence[Path]) -> dict[int, np.ndarray]:
    """True ranks that every run has scored, by phase; a run without set `phase_<k>` counts with its `train`."""
    result: dict[int, np.ndarray] = {}
    scored = [{file.parent.name: file for file in path.glob("eval/*/rank.npy")} for path in paths]
    names = {name for files in scored for name in files if re.fullmatch(r"phase_[0-9]{1,9}", name)}
    for phase in sorted(int(name[len("phase_") :]) for name in names) or [0]:
        for files in scored:
            file = files.get(f"phase_{phase}", files.get("train"))
            if file is not None:
                rank = mnemo_io.read_npy(file, np.int64, 1)
                result[phase] = np.intersect1d(result[phase], rank) if phase in result else rank
    return result


def read(path: Path, common: dict[int, np.ndarray]) -> dict[str, Any]:
    """A run cut to the ranks that all compared runs have scored, so that means are over the same ranks."""
    run = mnemo_io.read_run(path)
    return {**run, "sets": curves.cut_ranks(run["sets"], common)}


def all_paths(compared: Sequence[Member]) -> list[Path]:
    return [path for member in compared for path in member["paths"]]


def bins_of(common: dict[int, np.ndarray], compared: Sequence[Member], edges: Sequence[int] | None) -> list[curves.Bin]:
    """Rank bins of the smallest K, or of --bins."""
    runs = (mnemo_io.read_run(member["paths"][0]) for member in compared)
    smallest = min(mnemo_io.num_sequences(run) for run in runs)
    scored = np.concatenate([*common.values(), np.empty(0, np.int64)])
    bins = curves.rank_bins(smallest, edges)
    return [ranks for ranks in bins if ((scored >= ranks[0]) & (scored < ranks[1])).any()] or bins


def same_task(a: Member, b: Member) -> bool:
    """Whether accuracies of both are of the same thing: of bits, or of whole sequences."""
    return curves.names_sequences(a["config"]) == curves.names_sequences(b["config"])


def notes(compared: Sequence[Member], threshold: str) -> list[str]:
    """What a reader must know before comparing the members."""
    told = f"the first evaluation at which the bin's mean accuracy reaches {threshold} (> x: not by x)"
    result = [f"presentations: mean over the ranks of a bin at {told}"]
    for key, what in (("length", "L"), ("num_sequences", "K"), ("zipf_exponent", "the Zipf exponent")):
        values = list(dict.fromkeys(member["config"].get("data", {}).get(key) for member in compared))
        if len(values) > 1:
            said = ", ".join(map(str, values))
            result.append(f"{what} differs ({said}): compared by presentations, each against its own ceiling")
    counts = {
        len(mnemo_io.read_npy(file)) for path in all_paths(compared) for file in path.glob("eval/phase_0/rank.npy")
    }
    counts |= {len(rank) for phase, rank in common_ranks(all_paths(compared)).items() if phase == 0}
    if len(counts) > 1:
        result.append(f"all numbers are over the {min(counts)} ranks that every run has scored")
    for member in compared:
        if curves.names_sequences(member["config"]):
            result.append(
                f"{member['name']}: names whole sequences (objective retrieval): chance is 1/K; no stored bits"
            )
    files = {str(member["config"].get("data", {}).get("file")) for member in compared}
    if len(files) > 1:
        result.append("the data files differ: compared by presentations, each against its own ceiling")
    return result
