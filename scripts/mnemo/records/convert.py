"""Turn an old notebook record into a run directory that compare, plot and show understand. Runs nothing in the record.

What a record does not say is left out or marked, never guessed: meta.json lists it. Needs NumPy alone.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from mnemo import bayes
from mnemo.errors import DataError
from mnemo.files import PathLike, safetensors_bytes
from mnemo.records import pickles, row_rules
from mnemo.runs import SET_COLUMNS

EXPONENTS = {"zipf": 1.0, "uniform": 0.0}
DEAD = ("pre_attn_ln.",)  # in records for a strict loader; no model uses it


# Formats --------------------------------------------------------------------------------------------------------------


def write_settings(
    folder: Path, config: dict[str, Any], text: str, tensors: dict[str, np.ndarray], seeds: dict[str, Any]
) -> None:
    """config.yaml (JSON is YAML) and run.json: the settings that are known, and the facts as the engine has them.

    Records are of models that predict bits 2 to L; `tensors` are weights at some moment.
    """
    known = {
        key: {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value
        for key, value in config.items()
        if value is not None
    }
    (folder / "config.yaml").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
    events = [{**event, "step": event["at"]} for event in config["events"]]
    size = sum(tensor.size for name, tensor in tensors.items() if name != "memory")
    facts = {
        "model": {"kind": config["model"]["kind"], "text": text, "num_parameters": size or None, "task": "bits",
                  "first_position": 1},
        "chance": {"loss": math.log(2), "accuracy": 0.5}, "seeds": seeds, "phases": 1 + len(events),
    }  # fmt: skip
    write_json(folder / "run.json", {**known, "events": events, "facts": facts})


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


# A record, checked ----------------------------------------------------------------------------------------------------


def field(container: Any, name: str, kind: type | tuple[type, ...], where: str) -> Any:
    """container[name], which must be of a kind; DataError names it."""
    value = container.get(name) if isinstance(container, dict) else None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise DataError(f"{where}: {name} must be {wanted}, is {type(value).__name__}")
    return value


def positive(container: Any, name: str, where: str) -> int:
    value = field(container, name, int, where)
    if value < 1:
        raise DataError(f"{where}: {name} must be at least 1, is {value}")
    return value


def row_array(container: Any, name: str, where: str, size: int | None = None) -> np.ndarray:
    """A finite 1-D array of numbers."""
    values = field(container, name, np.ndarray, where)
    if values.ndim != 1 or values.dtype.kind not in "iuf" or (size is not None and len(values) != size):
        raise DataError(f"{where}: {name} must be ({size if size is not None else 'S'},) numbers, is {values.shape}")
    return values


def evaluation(metrics: Any, where: str) -> dict[str, np.ndarray]:
    """test_metrics: accuracy and logsoftmaxloss of each row, and true_rank where it is said."""
    accuracy = row_array(metrics, "accuracy", where)
    loss = row_array(metrics, "logsoftmaxloss", where, len(accuracy))
    if (loss < 0).any() or (accuracy < 0).any() or (accuracy > 1).any():
        raise DataError(f"{where}: a loss below 0 or an accuracy outside 0..1")
    result = {"accuracy": accuracy, "loss": loss}
    if "true_rank" in metrics:
        result["true_rank"] = row_array(metrics, "true_rank", where, len(accuracy))
    return result


def plain(args: dict[str, Any]) -> dict[str, Any]:
    """Settings with Python numbers where there were NumPy scalars."""
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in args.items()}


def is_dam(record: Any) -> bool:
    return isinstance(record, dict) and isinstance(record.get("args"), argparse.Namespace)


# Transformers ---------------------------------------------------------------------------------------------------------


class Transformer:
    """What a transformer's record says, once it has been checked."""

    def __init__(self, record: Any, sequences: Any) -> None:
        args = self.args = plain(field(record, "args", dict, "record"))
        self.logs = field(record, "logs", list, "record")
        if not self.logs:
            raise DataError("logs: is empty: there is nothing to import")
        self.num_sequences, self.length = positive(args, "K", "args"), positive(args, "len_context", "args")
        self.epoch_steps, self.batch_size = (
            positive(args, key, "args") for key in ("num_iters_per_epoch", "batch_size")
        )
        self.steps = len(self.logs) * self.epoch_steps
        counts = [
            row_array(log, "num_apppearances", f"logs[{i}]", self.num_sequences) for i, log in enumerate(self.logs)
        ]
        if any(not np.isfinite(count).all() or (count < 0).any() for count in counts):
            raise DataError("logs: num_apppearances must be counts")
        self.counts = [count.astype(np.int64) for count in counts]
        self.starts = row_rules.first_epochs(self.logs, self.batch_size * self.epoch_steps)
        self.bits = _bits(sequences, self)
        self.evaluations = self._evaluations(record)
        self.rule, self.rows = row_rules.find_rule(
            [(phase, e) for _, phase, e in self.evaluations], self.num_sequences
        )
        self.p = self._probabilities()

    def phase_of(self, epoch: int) -> int:
        return int(np.searchsorted(self.starts, epoch, "right")) - 1

    def _evaluations(self, record: dict) -> list[tuple[int, int, dict]]:
        """(epoch, phase, arrays) of each evaluation, the last one at the end of the run."""
        found = [(epoch, log.get("test_metrics"), f"logs[{epoch}].test_metrics") for epoch, log in enumerate(self.logs)]
        found.append((len(self.logs), record.get("final_test_metrics"), "final_test_metrics"))
        result = [(epoch, self.phase_of(epoch), evaluation(metrics, at)) for epoch, metrics, at in found if metrics]
        if not result:
            raise DataError("test_metrics: are empty in every log: there is nothing to compare")
        return result

    def _probabilities(self) -> np.ndarray | None:
        """p of the ranks where the record names a law that its own counts bear out; else None."""
        exponent = EXPONENTS.get(str(self.args.get("sequence_sampling_distribution")))
        if exponent is None:
            return None
        p = bayes.zipf(self.num_sequences, exponent)
        last = [self.counts[end - 1] for end in [*self.starts[1:], len(self.counts)]]
        total, top = sum(int(count.sum()) for count in last), sum(int(count[0]) for count in last)
        fits = abs(top - total * p[0]) <= 6 * np.sqrt(total * p[0] * (1 - p[0])) + 1e-9
        return p if fits else None


def _bits(sequences: Any, run: Transformer) -> list[np.ndarray]:
    """(K, L) uint8 of each phase; [] where there is no sequences file."""
    if sequences is None:
        return []
    tables = field(sequences, "sequences", list, "sequences file")
    starts = field(sequences, "switch_start_iter", list, "sequences file")
    shape = (run.num_sequences, run.length)
    for phase, table in enumerate(tables):
        if not isinstance(table, np.ndarray) or table.shape != shape or not np.isin(table, (0, 1)).all():
            raise DataError(f"sequences file: sequences[{phase}] must be {shape} of 0 and 1")
    firsts = [entry[0] if isinstance(entry, list) and entry else None for entry in starts]
    if len(tables) != len(starts) or firsts != run.starts:
        raise DataError(
            f"sequences file: phases begin at epochs {firsts}, but the counts of the logs say {run.starts}"
        )
    return [table.astype(np.uint8) for table in tables]


def config_of(run: Transformer, name: str) -> dict[str, Any]:
    """The record's settings as the engine would write them; what it does not say is left out."""
    args = run.args
    group = str(args.get("wandb_group_name") or "imported")
    seed = args.get("seed") if isinstance(args.get("seed"), int) else None
    known = {"OneLayerAttention": "one_layer_attention", "gpt": "gpt"}
    if field(args, "arch", str, "args") not in known:
        raise DataError(f"args: arch must be one of {', '.join(known)}, is {args['arch'][:80]!r}")
    model: dict[str, Any] = {"kind": known[args["arch"]]}
    model.update(heads=positive(args, "num_heads", "args"), head_dim=positive(args, "num_hidden_features", "args"))
    if model["kind"] == "gpt":
        model["layers"] = positive(args, "num_layers", "args")
    else:
        model.update(mlp_layers=args.get("num_mlp_layers"), mlp_width=args.get("num_hidden_features_mlp"))
        model["attention_init"] = "zero" if args.get("is_initialize_attention_weights_to_zero") == "True" else "normal"
    exponent = EXPONENTS[str(args["sequence_sampling_distribution"])] if run.p is not None else None
    switches = [
        {"kind": "switch", "at": epoch * run.epoch_steps, "name": f"switch_{phase}"}
        for phase, epoch in enumerate(run.starts[1:], 1)
    ]
    return {
        "name": group, "group": group, "run": name, "seed": seed,
        "data": {"num_sequences": run.num_sequences, "length": run.length, "zipf_exponent": exponent, "seed": seed},
        "model": {key: value for key, value in model.items() if value is not None},
        "train": {"steps": run.steps, "batch_size": run.batch_size, "lr": number(args.get("lr")),
                  "log_every": run.epoch_steps},
        "eval": {"every": run.epoch_steps}, "events": switches,
    }  # fmt: skip


def presentations(run: Transformer, epoch: int, phase: int) -> np.ndarray:
    """Draws of each rank in a phase up to an epoch, (K,), as far as the record counts them.

    It counts at the beginning of each epoch, and from 0 again after a switch: the last epoch of a phase is not in it.
    """
    end = run.starts[phase + 1] - 1 if phase + 1 < len(run.starts) else len(run.counts) - 1
    return run.counts[min(epoch, end)]


def write_sets(run: Transformer, folder: Path) -> None:
    """eval/train for the rules that score the current sequences alone, else eval/phase_<k>."""
    current = run.rule in ("current", "all_ranks")
    for phase in [None] if current else range(len(run.starts)):
        columns: dict[str, list] = {name: [] for name in ("step", "phase", "presentations", "loss", "accuracy")}
        ranks = None
        for (epoch, now, arrays), (of_phase, rank) in zip(run.evaluations, run.rows):
            inside = of_phase == (now if current else phase)
            if not inside.any():
                continue
            ranks = rank[inside]
            columns["step"].append(epoch * run.epoch_steps)
            columns["phase"].append(now)
            columns["presentations"].append(presentations(run, epoch, now if current else phase)[ranks])
            columns["loss"].append(arrays["loss"][inside])
            columns["accuracy"].append(arrays["accuracy"][inside])
        if ranks is None:
            continue
        columns["last_seen"] = [np.full(len(ranks), -1)] * len(columns["step"])
        target = folder / "eval" / ("train" if current else f"phase_{phase}")
        target.mkdir(parents=True)
        np.save(target / "rank.npy", ranks.astype(np.int64))
        for name, values in columns.items():
            np.save(target / f"{name}.npy", np.array(values, SET_COLUMNS[name]))


def weights(tensors: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a state dict, nested ones under dotted names, without what no model uses."""
    result: dict[str, np.ndarray] = {}
    for name, value in tensors.items() if isinstance(tensors, dict) else ():
        if isinstance(value, dict) and prefix.count(".") < 8:
            result.update(weights(value, f"{prefix}{name}."))
        elif isinstance(value, np.ndarray) and not f"{prefix}{name}".startswith(DEAD):
            result[f"{prefix}{name}"] = value
    return result


def snapshots_of(record: dict) -> dict[str, dict[str, np.ndarray]]:
    """{name: {tensor: array}} from mlp_state_dict, c_attn_state_dict and model_<epoch>."""
    result: dict[str, dict[str, np.ndarray]] = {}
    mlp, attention = (
        record[key] if isinstance(record.get(key), dict) else {} for key in ("mlp_state_dict", "c_attn_state_dict")
    )
    for name in dict.fromkeys([*mlp, *attention]):
        result[str(name)] = {**weights(mlp.get(name)), **weights(attention.get(name), "c_attn.")}
    for key, value in record.items():
        if re.fullmatch(r"model_[0-9]{1,9}", str(key)):
            result[f"epoch_{key[6:]}"] = weights(value)
    return {re.sub(r"[^A-Za-z0-9_.=-]", "_", name): tensors for name, tensors in result.items() if tensors}


def write_transformer(record: dict, sequences: Any, folder: Path, name: str) -> list[str]:
    """Writes everything; returns what had to be left out."""
    run = Transformer(record, sequences)
    config, final = config_of(run, name), weights(record.get("model_state_dict", record.get("model")))
    seeds = {"data": config["seed"], "model": config["seed"]}
    write_settings(folder, config, "{heads} heads x {head_dim}".format(**config["model"]), final, seeds)
    write_sets(run, folder)
    switches = [{"phase": k, "step": epoch * run.epoch_steps} for k, epoch in enumerate(run.starts[1:], 1)]
    write_json(folder / "switches.json", switches)
    losses = [number(log.get("train_loss")) for log in run.logs]
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as file:
        for epoch, (log, loss) in enumerate(zip(run.logs, losses)):
            step = (epoch + 1) * run.epoch_steps
            line = {"step": step, "phase": run.phase_of(epoch), "draws": step * run.batch_size, "train_loss": loss,
                    "train_accuracy": None, "lr": number(log.get("lr", run.args.get("lr")))}  # fmt: skip
            file.write(json.dumps(line) + "\n")
    write_json(
        folder / "status.json", {"state": "done", "step": run.steps, "steps": run.steps, "loss": number(losses[-1])}
    )
    (folder / "theory").mkdir()
    phases = []
    for phase, bits in enumerate(run.bits):
        (folder / "sequences").mkdir(exist_ok=True)
        np.save(folder / f"sequences/phase_{phase}.npy", bits)
        if run.p is not None:
            table, scalars = bayes.theory(bits, run.p)
            np.save(folder / f"theory/phase_{phase}.npy", table)
            phases.append({"phase": phase, **scalars})
    write_json(folder / "theory/theory.json", {"phases": phases})
    if final:
        (folder / "final.safetensors").write_bytes(safetensors_bytes(final))
    for snapshot, tensors in snapshots_of(record).items():
        (folder / "snapshots").mkdir(exist_ok=True)
        (folder / f"snapshots/{snapshot}.safetensors").write_bytes(safetensors_bytes(tensors))
    left_out = ["last_seen (-1 everywhere), train_accuracy",
                "draws of the last epoch of each phase: presentations there are those at its beginning"]  # fmt: skip
    left_out += [] if run.bits else ["sequences: no _sequences.pkl or _all_sequences.pkl beside the record"]
    if run.p is None or not run.bits:
        left_out.append("Bayes limits: the record does not say, or its counts do not bear out, how ranks were drawn"
                        if run.p is None else "Bayes limits: they need the sequences")  # fmt: skip
    left_out += ["fork probes (probe_metrics)"] if any(map(is_probed, run.logs)) else []
    left_out += [] if final else ["final weights"]
    return left_out


def is_probed(log: dict[str, Any]) -> bool:
    probe = log.get("probe_metrics")
    return bool(isinstance(probe, dict) and probe.get("accuracy"))


def number(value: Any) -> float | None:
    """A finite float for JSON, or null."""
    return float(value) if isinstance(value, (int, float, np.number)) and np.isfinite(value) else None


# DAM ------------------------------------------------------------------------------------------------------------------


def write_dam(record: dict, folder: Path, name: str) -> list[str]:
    """A DAM's record: training curve and weights at the end of the first phase; no single sequence was scored.

    A log is named by the update of its phase at which it begins, a line of metrics.jsonl by that at which it ends.
    """
    args = plain(vars(record["args"]))
    sizes = {key: positive(args, key, "args") for key in ("N", "H", "M", "K", "BATCH_SIZE", "NUM_ITERS_PER_LOG")}
    logs = [log for log in field(record, "logs", list, "record") if isinstance(log, dict)]
    phases = [{"train": 0, "eval": 1}.get(log.get("phase")) for log in logs]
    if not logs or None in phases or sorted(phases) != phases:
        raise DataError("logs: phase must be train, then eval, in each entry")
    ends = [field(log, "step", int, "logs") + sizes["NUM_ITERS_PER_LOG"] for log in logs]
    switch = max((end for end, phase in zip(ends, phases) if phase == 0), default=0)
    switch = args["NUM_STEPS"] if isinstance(args.get("NUM_STEPS"), int) else switch
    steps = [end + switch if phase else min(end, switch) for end, phase in zip(ends, phases)]
    config = {
        "name": "imported", "group": "imported", "run": name, "seed": None,
        "data": {"num_sequences": sizes["K"], "length": sizes["N"], "zipf_exponent": None},
        "model": {"kind": "dam", "heads": sizes["H"], "capacity": sizes["M"], "eta": number(args.get("eta")),
                  "init_std": number(args.get("INIT_STD"))},
        "train": {"steps": steps[-1], "batch_size": sizes["BATCH_SIZE"], "lr": number(args.get("lr")),
                  "log_every": sizes["NUM_ITERS_PER_LOG"]},
        "events": [{"kind": "switch", "at": switch, "name": "switch"}] if 1 in phases else [],
    }  # fmt: skip
    tensors = weights(record.get("model_state_dict"))
    text = "{H} heads, a queue of {M}".format(**sizes)
    write_settings(folder, config, text, tensors, {"data": None, "model": None})
    write_json(folder / "switches.json", [{"phase": 1, "step": switch}] if 1 in phases else [])
    with open(folder / "metrics.jsonl", "w", encoding="utf-8") as file:
        for log, phase, step in zip(logs, phases, steps):
            line = {"step": step, "phase": phase, "draws": step * sizes["BATCH_SIZE"]}
            line.update(train_loss=number(log.get("loss")), train_accuracy=number(log.get("accuracy")))
            line["lr"] = number(args.get("lr"))
            file.write(json.dumps(line) + "\n")
    last = {"step": steps[-1], "steps": steps[-1], "loss": line["train_loss"]}
    write_json(folder / "status.json", {"state": "done", **last})
    if "memory" in tensors:
        tensors["memory"] = (tensors["memory"] > 0).astype(np.uint8)  # of -1 and 1
    if tensors:
        (folder / "snapshots").mkdir()
        (folder / "snapshots/before_switch.safetensors").write_bytes(safetensors_bytes(tensors))
    return ["evaluations of single sequences: a DAM's record has none, so compare and plot have nothing to show",
            "measures by position, final weights"]  # fmt: skip


# Files ----------------------------------------------------------------------------------------------------------------


def import_record(path: PathLike, folder: PathLike) -> list[str]:
    """Writes the run directory `folder`, which must not exist, in one move; returns what had to be left out."""
    path, folder = Path(path), Path(folder)
    record = pickles.read_record(path)
    if isinstance(record, dict) and "sequences" in record and "logs" not in record:
        stem = re.sub("(_all)?_sequences$", "", path.stem)
        name = next(
            (f"{stem}{end}" for end in (".pkl", ".pt") if path.with_name(f"{stem}{end}").is_file()), f"{stem}.pkl"
        )
        raise DataError(f"{path}: is the sequences file of a record; import the record itself, {name}")
    sequences = record if isinstance(record, dict) and "sequences" in record else None
    if sequences is None and (beside := pickles.sequences_file(path)):
        sequences = pickles.read_record(beside)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    temporary.mkdir()
    try:
        if is_dam(record):
            left_out = write_dam(record, temporary, folder.name)
        else:
            left_out = write_transformer(record, sequences, temporary, folder.name)
        write_json(temporary / "meta.json", {"imported": path.name, "left_out": left_out})
        temporary.rename(folder)
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return left_out
