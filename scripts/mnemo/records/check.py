"""Check exported notebook records field by field against what notebooks read, and say what would fail.

Each check yields sentences `field: what is wrong`, with what it would cost a reader; none means that the record holds.
Runs nothing in the files; needs NumPy alone.
Letters: K sequences, L bits, H heads, C width, F head dimension, D MLP width, S rows, B rows a batch; of a DAM N bits.
"""

from __future__ import annotations

import argparse
import filecmp
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mnemo.records import pickles, row_rules

Problems = Iterator[str]

NAMES = {
    ("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar"), ("numpy", "ndarray"),
    ("numpy", "dtype"), ("torch", "from_numpy"),
}  # fmt: skip
ARGS = {
    "wandb_group_name": str, "len_context": int, "K": int, "vocab_size": int, "num_heads": int, "num_layers": int,
    "num_hidden_features": int, "num_hidden_features_mlp": int, "num_mlp_layers": int, "lr": float, "arch": str,
    "num_iters": int, "num_iters_per_epoch": int, "batch_size": int, "seed": int, "is_resample_tasks": str,
    "is_initialize_attention_weights_to_zero": str, "is_probe": str, "probe_every_iter": int,
    "sequence_sampling_distribution": str, "fileprefix": str,
}  # fmt: skip
CHOICES = {
    "vocab_size": (2,), "arch": ("OneLayerAttention", "gpt"), "is_resample_tasks": ("True", "False", "Forget"),
    "is_probe": ("True", "False"), "is_initialize_attention_weights_to_zero": ("True", "False"),
}  # fmt: skip
KEYS = (
    "args", "logs", "model", "model_state_dict", "mlp_state_dict", "c_attn_state_dict", "final_test_metrics",
    "positional_encoding", "token_embedding",
)  # fmt: skip
SEQUENCES = ("sequences", "switch_start_iter")
LINEAR_PROBE = ("layer", "accuracy", "num_train", "num_test")
PROBED_LAYERS = 4  # that cells of linear probes ask for, however few layers there are
POSITIONS, SPACING = 20, 5  # of attention measures: s = 0, 5, ... and t = 1, 6, ... below L
ROWS_OF_GROUPS = {"_doresample": "current", "_swapmlp_eval": "all_phases"}  # that cells of these groups count on
METRICS = {"sequence_rank": np.int64, "true_rank": np.int64, "logsoftmaxloss": np.float32, "accuracy": np.float32}
MAX_LAYERS = 1000
LENGTH = 50  # the scalar that notebooks expect under `length`, whatever L is
DAM_ARGS = ("eta", "lr", "INIT_STD", "N", "H", "M", "K", "BATCH_SIZE", "NUM_STEPS", "NUM_ITERS_PER_LOG", "savedir",
            "prefix", "is_freeze_A", "device")  # fmt: skip
DAM_ROWS = ("A_logits_mean", "B_logits_mean", "A_correlation_offdiag_mean")  # (N,), with a scalar NAME_mean each
DAM_MEANS = DAM_ROWS[:2]  # of raw logits: defined everywhere
FREEZE_WORDS = ("True", "False", "LearnAB", "BothAB")


class Tensor(NamedTuple):
    """What was a torch tensor."""

    array: np.ndarray


# Pieces ---------------------------------------------------------------------------------------------------------------


def array_problem(value: Any, dtype: Any, shape: tuple[int, ...]) -> str | None:
    """What is wrong with an array, None when nothing is."""
    if not isinstance(value, np.ndarray):
        return f"must be a NumPy array, is {type(value).__name__}"
    if value.dtype != dtype or value.shape != shape:
        return f"must be {np.dtype(dtype)} {shape}, is {value.dtype} {value.shape}"
    return None


def check_array(name: str, value: Any, dtype: Any, shape: tuple[int, ...]) -> Problems:
    problem = array_problem(value, dtype, shape)
    if problem:
        yield f"{name}: {problem}"


def check_args(args: Any) -> Problems:
    if not isinstance(args, dict):
        yield f"args: must be a dict, is {type(args).__name__}"
        return
    for name, kind in ARGS.items():
        if name not in args:
            yield f"args.{name}: is missing"
        elif type(args[name]) is not kind and not (kind is float and type(args[name]) is int):
            yield f"args.{name}: must be {kind.__name__}, is {type(args[name]).__name__}"
        elif name in CHOICES and args[name] not in CHOICES[name]:
            yield f"args.{name}: must be one of {', '.join(map(repr, CHOICES[name]))}, is {args[name]!r}"
        elif name in ("num_layers", "num_mlp_layers") and args[name] > MAX_LAYERS:
            yield f"args.{name}: is {args[name]}"
        elif kind is int and args[name] < (1 if name not in ("seed", "probe_every_iter", "num_mlp_layers") else 0):
            yield f"args.{name}: must be positive, is {args[name]}"


def shapes(args: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensors of the state dict by name, as a strict loader of the original module asks for them."""
    heads, features, length = args["num_heads"], args["num_hidden_features"], args["len_context"]
    width, mlp = heads * features, args["num_hidden_features_mlp"]

    def linear(name: str, outputs: int, inputs: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}

    def norm(name: str) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (width,), f"{name}.bias": (width,)}

    if args["arch"] == "OneLayerAttention":
        result = {"wte.weight": (2, width), "wpe.weight": (length, width), **linear("c_attn", 3 * width, width)}
        result.update({**norm("pre_attn_ln"), **norm("ln_f")})
        for layer in range(args["num_mlp_layers"]):
            result.update(linear(f"linear_modules.{layer}", mlp, mlp if layer else width))
        return {**result, **linear("lm_head", 2, mlp if args["num_mlp_layers"] else width)}
    result = {"transformer.wte.weight": (2, width), "transformer.wpe.weight": (length, width)}
    for layer in range(args["num_layers"]):
        block = f"transformer.h.{layer}"
        result.update({**norm(f"{block}.ln_1"), **norm(f"{block}.ln_2")})
        result.update(
            {**linear(f"{block}.attn.c_attn", 3 * width, width), **linear(f"{block}.attn.c_proj", width, width)}
        )
        result.update(
            {**linear(f"{block}.mlp.c_fc", 4 * width, width), **linear(f"{block}.mlp.c_proj", width, 4 * width)}
        )
    return {**result, **norm("transformer.ln_f"), **linear("lm_head", 2, width)}


def check_weights(name: str, tensors: Any, wanted: dict[str, tuple[int, ...]]) -> Problems:
    """A state dict: all names, their shapes, real and finite; all torch tensors or all arrays."""
    if not isinstance(tensors, dict):
        yield f"{name}: must be a dict, is {type(tensors).__name__}"
        return
    optional = {"transformer.wpe.weight"}  # rotary positions have none
    for missing in sorted(set(wanted) - set(tensors) - optional):
        yield f"{name}.{missing}: is missing"
    for unknown in sorted(map(str, set(tensors) - set(wanted))):
        yield f"{name}.{unknown}: a strict loader knows no such tensor"
    for key in sorted(set(wanted) & set(tensors)):
        value = tensors[key].array if isinstance(tensors[key], Tensor) else tensors[key]
        dtype = value.dtype if isinstance(value, np.ndarray) and value.dtype == np.float64 else np.float32
        yield from check_array(f"{name}.{key}", value, dtype, wanted[key])
        if isinstance(value, np.ndarray) and not np.isfinite(value).all():
            yield f"{name}.{key}: holds numbers that are not finite"
    if len({isinstance(value, Tensor) for value in tensors.values()}) > 1:
        yield f"{name}: some values are torch tensors, some NumPy arrays"


def check_metrics(name: str, metrics: Any, args: dict[str, Any]) -> Problems:
    """test_metrics but for what its rows are, and which keys there must be."""
    if not isinstance(metrics, dict):
        yield f"{name}: must be a dict, is {type(metrics).__name__}"
        return
    if not metrics:  # not evaluated at this log
        return
    size = metrics["accuracy"].size if isinstance(metrics.get("accuracy"), np.ndarray) else 0
    for key, dtype in METRICS.items():
        if key in metrics or key != "true_rank":
            yield from check_array(f"{name}.{key}", metrics.get(key), dtype, (size,))
    if array_problem(metrics.get("sequence_rank"), np.int64, (size,)) is None:
        if not np.array_equal(metrics["sequence_rank"], np.arange(size)):
            yield f"{name}.sequence_rank: must be the row, 0..{size - 1}: notebooks multiply it by 10"
    if np.ndim(metrics.get("length")) != 0 or metrics.get("length") != LENGTH:
        yield f"{name}.length: must be the scalar {LENGTH}"
    if array_problem(metrics.get("accuracy"), np.float32, (size,)) is None:
        if ((metrics["accuracy"] < 0) | (metrics["accuracy"] > 1)).any():
            yield f"{name}.accuracy: outside 0..1"
    if (
        array_problem(metrics.get("logsoftmaxloss"), np.float32, (size,)) is None
        and (metrics["logsoftmaxloss"] < 0).any()
    ):
        yield f"{name}.logsoftmaxloss: below 0"
    yield from check_attention(name, metrics, args)
    yield from check_linear_probes(name, metrics)


def positions(length: int, first: int) -> int:
    """How many of first, first + 5, ... lie below L; at most 20."""
    return min(POSITIONS, (length - first - 1) // SPACING + 1)


def check_attention(name: str, metrics: dict[str, Any], args: dict[str, Any]) -> Problems:
    """Measures of attention maps, where there are any: of the positions that sequences have; of a gpt by layer."""
    heads, length = args["num_heads"], args["len_context"]
    layers = () if args["arch"] == "OneLayerAttention" else (args["num_layers"],)
    s, t = positions(length, 0), positions(length, 1)
    for key, shape in {"vertical_bars_metric": (heads, s, t), "decorrelation_metric": (s, heads, heads)}.items():
        if key in metrics:
            problem = array_problem(metrics[key], np.float32, (*layers, *shape))
            if problem:
                yield f"{name}.{key}: {problem}; cells draw one bar a position of the {length} bits"


def is_empty_list(value: Any) -> bool:
    return isinstance(value, list) and not value


def check_linear_probes(name: str, metrics: dict[str, Any]) -> Problems:
    """What linear_probe.py fills in, where it is there: four arrays, and a number or an empty list a layer."""
    probe = metrics.get("mlp_probe_metrics", {})
    arrays = [probe.get(key) if isinstance(probe, dict) else None for key in LINEAR_PROBE]
    sizes = {value.size if isinstance(value, np.ndarray) and value.ndim == 1 else 0 for value in arrays}
    if "mlp_probe_metrics" in metrics and (len(sizes) != 1 or min(sizes) < PROBED_LAYERS):
        yield (f"{name}.mlp_probe_metrics: must hold the arrays {', '.join(LINEAR_PROBE)} of one length, at least "
               f"{PROBED_LAYERS}; cells index the layers")  # fmt: skip
    for key, value in metrics.items():
        if key.startswith("probe_novel_sequences_") and type(value) is not float and not is_empty_list(value):
            yield f"{name}.{key}: must be a float, or an empty list where nothing was probed"


def check_log(index: int, log: Any, args: dict[str, Any]) -> Problems:
    name = f"logs[{index}]"
    if not isinstance(log, dict):
        yield f"{name}: must be a dict, is {type(log).__name__}"
        return
    yield from check_array(f"{name}.num_apppearances", log.get("num_apppearances"), np.float64, (args["K"],))
    if type(log.get("epoch")) is not int or log["epoch"] != index:
        yield f"{name}.epoch: must be {index}, is {log.get('epoch')!r}"
    for key in ("train_loss", "lr"):
        if not isinstance(log.get(key), (float, np.floating)) or not math.isfinite(log[key]):
            yield f"{name}.{key}: must be a finite float, is {type(log.get(key)).__name__}"
    for key in ("loss_per_appearance", "appearances"):
        if not isinstance(log.get(key), list):
            yield f"{name}.{key}: must be a list"
    yield from check_metrics(f"{name}.test_metrics", log.get("test_metrics"), args)
    yield from check_probe(f"{name}.probe_metrics", log.get("probe_metrics"))


def check_probe(name: str, probe: Any) -> Problems:
    """A fork probe; empty lists where there was none."""
    if not isinstance(probe, dict):
        yield f"{name}: is missing; cells of fork probes read it in every log (empty lists where nothing was probed)"
        return
    trace, needed = probe.get("accuracy"), probe.get("num_iters_required")
    if not isinstance(trace, list) or any(np.ndim(value) or np.asarray(value).dtype != np.float32 for value in trace):
        yield f"{name}.accuracy: must be a list of 0-d float32"
    elif not (is_empty_list(needed) if not trace else type(needed) is int and 0 <= needed <= len(trace)):
        yield f"{name}.num_iters_required: must be an index into the {len(trace)} accuracies, an empty list for none"


def check_counts(logs: Sequence[dict], args: dict[str, Any]) -> Problems:
    """Sums of num_apppearances are batch * steps since the switch; no count falls within a phase."""
    try:
        starts = row_rules.first_epochs(logs, args["batch_size"] * args["num_iters_per_epoch"])
    except ValueError as error:
        yield str(error)
        return
    for epoch in range(1, len(logs)):
        if epoch not in starts and (logs[epoch]["num_apppearances"] < logs[epoch - 1]["num_apppearances"]).any():
            yield f"logs[{epoch}].num_apppearances: a count falls within a phase"
    if (len(starts) > 1) != (args["is_resample_tasks"] in ("True", "Forget")):
        yield f"args.is_resample_tasks: is {args['is_resample_tasks']!r}, but the counts have {len(starts)} phase(s)"


def check_rows(record: dict) -> Problems:
    """The rows of all evaluations follow one rule of `output.pickle_rows`, the one that the group's cells count on."""
    args, logs = record["args"], record["logs"]
    starts = row_rules.first_epochs(logs, args["batch_size"] * args["num_iters_per_epoch"])
    found = [(sum(start <= epoch for start in starts) - 1, log["test_metrics"]) for epoch, log in enumerate(logs)]
    found.append((len(starts) - 1, record["final_test_metrics"]))
    try:
        rule, _ = row_rules.find_rule([entry for entry in found if entry[1]], args["K"])
    except ValueError as error:
        yield str(error)
        return
    for ending, wanted in ROWS_OF_GROUPS.items():
        if args["wandb_group_name"].endswith(ending) and rule != wanted and len(starts) > 1:
            yield f"test_metrics: rows are {rule}; cells of {ending} take {wanted}: export it with --rows {wanted}"
    yield from check_keys([metrics for _, metrics in found], args["K"], rule)


def check_keys(evaluations: Sequence[dict], num_sequences: int, rule: str) -> Problems:
    """Which logs must be evaluated, and with which keys: readers of all K ranks make a table of test_metrics."""
    names = [*(f"logs[{index}].test_metrics" for index in range(len(evaluations) - 1)), "final_test_metrics"]
    probed = any("mlp_probe_metrics" in metrics for metrics in evaluations)
    every_rank = all(len(metrics["accuracy"]) == num_sequences for metrics in evaluations if metrics)
    wanted = ["mlp_probe_metrics", *(f"probe_novel_sequences_{layer}" for layer in range(PROBED_LAYERS))]
    for name, metrics in zip(names, evaluations):
        if rule == "all_ranks" or (every_rank and not probed):  # without a switch all_validation has the same rows
            for key, value in metrics.items():
                if key != "length" and not (isinstance(value, np.ndarray) and value.shape == (num_sequences,)):
                    yield (f"{name}.{key}: must be left out where the rows are all_ranks: analysis.py makes a table of "
                           "test_metrics and stops at what is not one number a rank")  # fmt: skip
        elif not metrics:
            yield f"{name}: is empty; cells read the accuracy of every log: export it with epochs of eval.every"
        else:
            yield from (
                f"{name}.{key}: is missing; cells of linear probes stop there" for key in wanted if key not in metrics
            )


def check_snapshots(record: dict, wanted: dict[str, tuple[int, ...]]) -> Problems:
    def part(prefix: str) -> dict[str, tuple[int, ...]]:
        return {name[len(prefix) :]: shape for name, shape in wanted.items() if name.startswith(prefix)}

    for name, value in record["mlp_state_dict"].items():
        for module in ("linear_modules", "lm_head"):
            tensors = value.get(module) if isinstance(value, dict) else None
            yield from check_weights(f"mlp_state_dict.{name}.{module}", tensors, part(f"{module}."))
        if "model_0" not in record and is_initial(value, record["c_attn_state_dict"].get(name)):
            yield f"mlp_state_dict.{name}: is of step 0, but model_0 is missing; cells that start from there stop"
    for name, value in record["c_attn_state_dict"].items():
        yield from check_weights(f"c_attn_state_dict.{name}", value, part("c_attn."))
    for name, value in record.items():
        if re.fullmatch(r"model_[0-9]+", str(name)):
            yield from check_weights(name, value, wanted)


def is_initial(mlp: Any, attention: Any) -> bool:
    """Whether weights were never trained: all their biases are 0, which the first update of Adam ends."""
    parts = [*(mlp.values() if isinstance(mlp, dict) else ()), attention]
    tensors = (part.items() if isinstance(part, dict) else () for part in parts)
    biases = [getattr(value, "array", value) for part in tensors for name, value in part if str(name).endswith("bias")]
    return bool(biases) and all(isinstance(bias, np.ndarray) and not bias.any() for bias in biases)


# Files ----------------------------------------------------------------------------------------------------------------


def check_record(record: Any) -> Problems:
    """A transformer's record. Checks that need sound parts come last, once the parts are."""
    if not isinstance(record, dict):
        yield f"must be a dict, is {type(record).__name__}"
        return
    missing = [key for key in KEYS if key not in record]
    yield from (f"{key}: is missing" for key in missing)
    found = list(check_args(record.get("args")))
    yield from found
    if missing or found:
        return
    args, logs = record["args"], record["logs"]
    if not isinstance(logs, list) or len(logs) != args["num_iters"] // args["num_iters_per_epoch"]:
        yield (f"logs: must be a list, an entry for each {args['num_iters_per_epoch']} of args.num_iters = "
               f"{args['num_iters']} steps; cells take num_iters for steps")  # fmt: skip
        return
    wanted = shapes(args)
    problems = [problem for index, log in enumerate(logs) for problem in check_log(index, log, args)]
    problems += check_metrics("final_test_metrics", record["final_test_metrics"], args)
    yield from problems
    if not problems:
        problems = list(check_counts(logs, args))
        yield from problems or check_rows(record)
    yield from check_weights("model", record["model"], wanted)
    if record["model"] is not record["model_state_dict"]:
        yield from check_weights("model_state_dict", record["model_state_dict"], wanted)
    for key in ("mlp_state_dict", "c_attn_state_dict"):
        if not isinstance(record[key], dict):
            yield f"{key}: must be a dict"
            return
    if args["arch"] == "OneLayerAttention":
        yield from check_snapshots(record, wanted)
    width = args["num_heads"] * args["num_hidden_features"]
    for key, rows in (("positional_encoding", args["len_context"]), ("token_embedding", 2)):
        yield from check_array(key, record[key], np.float32, (rows, width))


def check_sequences(value: Any, record: Any = None) -> Problems:
    """A sequences file, or these keys of a record, and that they fit their record where there is a sound one."""
    tables = value.get("sequences") if isinstance(value, dict) else None
    starts = value.get("switch_start_iter") if isinstance(value, dict) else None
    if not isinstance(tables, list) or not isinstance(starts, list) or not tables or len(tables) != len(starts):
        yield "must hold the lists sequences and switch_start_iter, one entry a phase each"
        return
    arrays = [table.array if isinstance(table, Tensor) else table for table in tables]
    shape = np.shape(arrays[0]) if np.ndim(arrays[0]) == 2 else (0, 0)
    for phase, (array, start) in enumerate(zip(arrays, starts)):
        problem = array_problem(array, np.int64, shape)
        if problem or not np.isin(array, (0, 1)).all():
            yield f"sequences[{phase}]: {problem or 'holds something else than 0 and 1'}"
        elif not isinstance(start, list) or len(start) != len(array) or any(type(n) is not int for n in start):
            yield f"switch_start_iter[{phase}]: must be {len(array)} int, one a sequence"
        elif len(set(start)) > 1:
            yield f"switch_start_iter[{phase}]: must be one epoch, {len(array)} times"
    if record is None:
        return
    args = record["args"]
    if shape != (args["K"], args["len_context"]):
        yield f"sequences: are {shape}, the record says K = {args['K']}, L = {args['len_context']}"
    firsts = row_rules.first_epochs(record["logs"], args["batch_size"] * args["num_iters_per_epoch"])
    if [start[0] if isinstance(start, list) and start else None for start in starts] != firsts:
        yield f"switch_start_iter: the counts of the record say that phases begin at epochs {firsts}"


def check_dam(record: Any) -> Problems:
    """A DAM's record: args, logs, weights at the end of the first phase."""
    args = (
        vars(record["args"])
        if isinstance(record, dict) and isinstance(record.get("args"), argparse.Namespace)
        else None
    )
    if args is None:
        yield "args: must be an argparse.Namespace"
        return
    yield from (f"args.{name}: is missing" for name in DAM_ARGS if name not in args)
    if any(type(args.get(key)) is not int for key in ("N", "H", "M", "K", "NUM_STEPS", "NUM_ITERS_PER_LOG")):
        return
    if args["NUM_ITERS_PER_LOG"] != 1:
        yield (f"args.NUM_ITERS_PER_LOG: is {args['NUM_ITERS_PER_LOG']}; cells of figure 9 take the number of a log "
               "for the step, and draw a wrong axis without a word: train with log_every: 1")  # fmt: skip
    if args["is_freeze_A"] not in FREEZE_WORDS:
        yield f"args.is_freeze_A: must be one of {', '.join(map(repr, FREEZE_WORDS))}, is {args['is_freeze_A']!r}"
    logs = record.get("logs")
    for index, log in enumerate(logs if isinstance(logs, list) else []):
        if not isinstance(log, dict):
            yield f"logs[{index}]: must be a dict, is {type(log).__name__}"
            continue
        if log.get("phase") not in ("train", "eval") or type(log.get("step")) is not int:
            yield f"logs[{index}]: phase must be train or eval, step an int"
        if not isinstance(log.get("accuracy"), np.float32):
            yield f"logs[{index}].accuracy: must be a NumPy float32 scalar"
        if not isinstance(log.get("loss"), (float, np.floating)):
            yield f"logs[{index}].loss: must be a float"
        for name in ("A_sharpness", *(f"{name}_mean" for name in DAM_ROWS)):
            if not isinstance(log.get(name), (float, np.floating)):
                yield f"logs[{index}].{name}: must be a number; cells plot it against the step"
        for name in DAM_ROWS:
            value = log.get(name)
            if not isinstance(value, Tensor) or value.array.shape != (args["N"],):
                yield f"logs[{index}].{name}: must be a torch tensor ({args['N']},); cells stack them"
            elif name in DAM_MEANS and np.isnan(value.array).any():
                yield f"logs[{index}].{name}: has no mean of the raw logits at each place; cells know no other"
    if not isinstance(logs, list) or not logs:
        yield "logs: must be a list with an entry a logged step"
    wanted = {"A_logits": (args["N"], args["H"], args["N"]), "B_logits": (args["H"], args["N"])}
    tensors = record.get("model_state_dict")
    memory = tensors.get("memory") if isinstance(tensors, dict) else None
    stored = memory.array if isinstance(memory, Tensor) else memory
    rows = len(stored) if isinstance(stored, np.ndarray) and stored.ndim == 2 else 0
    found = list(check_weights("model_state_dict", tensors, {**wanted, "memory": (rows, args["N"])}))
    yield from found
    if found:
        return
    distinct = len(np.unique(stored, axis=0))
    if args["is_freeze_A"] == "False" and args["M"] == args["K"] == rows == distinct:  # a queue repeats its draws
        yield "args.is_freeze_A: is 'False'; cells know retrieval (the memory is the K sequences) by 'BothAB'"
    weights = {name: getattr(tensors[name], "array", tensors[name]) for name in wanted}
    if isinstance(logs, list):
        yield from check_last_log(args, logs, weights)


def check_last_log(args: dict[str, Any], logs: Sequence[Any], weights: dict[str, np.ndarray]) -> Problems:
    """The last log of the first phase is of the weights that the record holds: means and correlations of raw logits."""
    steps = [index for index, log in enumerate(logs) if isinstance(log, dict) and log.get("phase") == "train"]
    last = steps[-1] if steps else 0
    if not steps or logs[last].get("step") != args["NUM_STEPS"] - args["NUM_ITERS_PER_LOG"]:
        return
    for name, expected in raw_measures(weights["A_logits"], weights["B_logits"]).items():
        value = logs[last].get(name)
        if isinstance(value, Tensor) and value.array.shape == expected.shape:
            if not np.allclose(value.array, expected, rtol=1e-4, atol=1e-5, equal_nan=True):
                yield (f"logs[{last}].{name}: is none of the raw logits over all {args['N']} entries (of which cells "
                       "know it); export it again")  # fmt: skip


def raw_measures(A: np.ndarray, B: np.ndarray) -> dict[str, np.ndarray]:
    """Of A_logits (N, H, N) and B_logits (H, N): means, and mean correlation of the pairs of heads that vary, (N,)."""
    A, B = A.astype(np.float64), B.astype(np.float64)
    centred = A - A.mean(axis=2, keepdims=True)
    norm = np.linalg.norm(centred, axis=2, keepdims=True)
    unit = np.where(norm > 1e-12, centred / np.where(norm > 1e-12, norm, 1), 0)
    count = (norm > 1e-12).sum(axis=(1, 2))
    pairs = np.where(count > 1, count * (count - 1.0), np.nan)
    correlation = ((unit.sum(axis=1) ** 2).sum(axis=1) - count) / pairs
    return dict(zip(DAM_ROWS, (A.mean(axis=(1, 2)), B.mean(axis=0), correlation)))


def check_format(path: Path, names: set) -> Problems:
    """Protocol 4, and no name but those that NumPy 1 and 2 and torch resolve."""
    with open(path, "rb") as file:
        start = file.read(2)
    if start != b"\x80\x04":
        yield "must be a pickle of protocol 4"
    for module, name in sorted(names - NAMES):
        yield f"uses the name {module}.{name}, which is none of the contract"


def check_name(path: Path, record: Any) -> Problems:
    """Names that globbing notebooks take apart; a run directory may have any."""
    if (path.parent / "config.yaml").is_file() or any(True for _ in check_args(record.get("args"))):
        return
    args = record["args"]
    group = path.parent.parent if path.parent.name == path.stem else path.parent
    expected = (
        f"{args['wandb_group_name']}_transformer_K_{args['K']}_L_{args['len_context']}_hidden_{args['num_hidden_features']}"
        f"_nheads_{args['num_heads']}_nlayers_{args['num_layers']}_{args['seed']}"
    )
    if re.fullmatch(re.escape(expected) + r"(_[0-9]+)?", path.stem) is None:
        yield f"the name must be {expected}[_k].pkl"
    if group.name != args["wandb_group_name"]:
        yield f"must lie in a folder {args['wandb_group_name']}, as args.wandb_group_name says"
    if group != path.parent:
        yield from check_neighbours(path.parent, r"(_[A-Za-z_]*sequences|_model_iter_[0-9]+)?\.pkl", path.stem)
    else:
        yield from check_neighbours(group, r"\.pkl")


def check_neighbours(folder: Path, ending: str, stem: str = "") -> Problems:
    """Visible files with other names than stem + ending."""
    strange = sorted(
        file.name
        for file in folder.iterdir()
        if not file.name.startswith(".") and re.fullmatch((re.escape(stem) or ".*") + ending, file.name) is None
    )
    if strange:
        yield f"other files lie beside it, which globs would find: {', '.join(strange[:3])}"


def record_beside(path: Path) -> Path | None:
    """The record that a file of sequences or weights belongs to; None for a record."""
    match = re.fullmatch(r"(.+?)(_[A-Za-z_]*sequences|_model_iter_[0-9]+)", path.stem)
    return path.with_name(f"{match[1]}.pkl") if match else None


def check_file(path: Path) -> tuple[str, list[str]]:
    """What a file is, in words, and its problems."""
    names: set = set()
    beside = record_beside(path)
    owner_path = beside if beside and beside.is_file() else None
    in_tree = not (path.parent / "config.yaml").is_file()
    if owner_path and in_tree and "sequences" in path.stem and filecmp.cmp(path, owner_path, shallow=False):
        return "the record under its other name", []
    record = pickles.read_record(path, tensor=Tensor, names=names)
    if path.suffix == ".pt":
        alone = check_neighbours(path.parent, r"\.pt") if in_tree else ()
        return f"DAM record; torch.load({str(path)!r}, weights_only=False) loads it", [*check_dam(record), *alone]
    owner = pickles.read_record(owner_path, tensor=Tensor) if owner_path else None
    if "_model_iter_" in path.stem:
        problems = [*check_format(path, names), *check_iter_file(path, record, owner)]
        return "weights of one epoch; cells that open any file of a folder may meet them", problems
    if path.stem.endswith("_sequences"):
        sound = owner if owner is not None and not any(True for _ in check_record(owner)) else None
        problems = [*check_format(path, names), *check_sequences(record, sound)]
        if owner is not None and in_tree:
            problems.append(f"is another pickle than {owner_path.name}; cells that take the first file of a folder "
                            "skip the run without a word where that is no record: export it again")  # fmt: skip
        return f"sequences of {len(record['sequences'])} phase(s)" if not problems else "sequences", problems
    problems = list(check_record(record))
    if isinstance(record, dict) and any(key in record for key in SEQUENCES):
        problems += check_sequences(record, None if problems else record)
    problems += [*check_format(path, names), *(check_name(path, record) if isinstance(record, dict) else ())]
    return f"record of {len(record['logs'])} epochs" if not problems else "record", problems


def check_iter_file(path: Path, weights: Any, owner: Any) -> Problems:
    """The weights that a record has as model_<epoch>, in a file of their own."""
    if not isinstance(owner, dict) or any(True for _ in check_args(owner.get("args"))):
        yield "lies beside no sound record"
        return
    yield from check_weights("weights", weights, shapes(owner["args"]))
    epoch = path.stem.rsplit("_", 1)[1]
    if f"model_{epoch}" not in owner:
        yield f"the record has no model_{epoch}"


def records_in(tree: Path) -> list[Path]:
    """Records in a tree (or the file itself), but hidden ones."""
    if tree.is_file():
        return [tree]
    found = [path for path in tree.rglob("*") if path.suffix in (".pkl", ".pt") and path.is_file()]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(tree).parts))
