#!/usr/bin/env python3
"""How a notebook uses exported records: finds them by glob, loads them with utils.CPU_Unpickler, draws two figures.

Left: accuracy against epoch by group of ranks, with the switches. Right, where there was a switch: accuracy by rank, a
column a run (more parameters to the right), of the second sequences, of the first ones, and of the first ones once the
MLP and head from before the switch are back. Cells (# %%) may be pasted into a notebook; needs NumPy and Matplotlib.

    scripts/notebook_example.py "out/my_group/*/*.pkl" -o figure.png
"""

from __future__ import annotations

import argparse
import glob
import sys
from pathlib import Path
from typing import Any

import numpy as np
import utils

from mnemo import command
from mnemo.figures import style
from mnemo.records.pickles import sequences_file

GROUPS = 3  # of ranks, equally many each
BLOCK = 256  # sequences a forward pass


# %% Records


def load_records(pattern: str) -> list[dict[str, Any]]:
    """The records that a pattern finds, each with its sequences, fewest parameters first."""
    records = []
    for file in sorted(glob.glob(pattern)):
        if file.endswith("_sequences.pkl") or "_model_iter_" in file:
            continue
        with open(file, "rb") as opened:
            record = utils.CPU_Unpickler(opened).load()
        beside = None if "sequences" in record else sequences_file(file)
        if beside:  # of a run directory
            with open(beside, "rb") as opened:
                record.update(utils.CPU_Unpickler(opened).load())
        records.append(record)
    if not records:
        raise FileNotFoundError(2, "no record fits this pattern", pattern)
    return sorted(records, key=num_parameters)


def num_parameters(record: dict[str, Any]) -> int:
    return sum(int(np.prod(tensor.shape)) for tensor in record["model_state_dict"].values())


# %% Accuracy against epoch


def accuracy_by_group(record: dict[str, Any]) -> tuple[list[int], np.ndarray]:
    """Epochs (T,) and the mean accuracy (T, GROUPS) of the current sequences, split by rank into equal groups.

    The current sequences are the last K / 10 rows; a row is a rank divided by 10.
    """
    evaluated = [log for log in record["logs"] if log["test_metrics"]]
    count = len(evaluated[0]["test_metrics"]["accuracy"])
    current = [log["test_metrics"]["accuracy"][-count:] for log in evaluated]
    means = [[part.mean() for part in np.array_split(accuracy, min(GROUPS, count))] for accuracy in current]
    return [log["epoch"] for log in evaluated], np.array(means)


def switch_epochs(record: dict[str, Any]) -> list[int]:
    """Epochs at which the counts of draws start anew."""
    totals = [log["num_apppearances"].sum() for log in record["logs"]]
    return [epoch for epoch in range(1, len(totals)) if totals[epoch] < totals[epoch - 1]]


# %% Heat maps of a swap


def one_layer_logits(state: dict[str, Any], bits: np.ndarray, heads: int) -> np.ndarray:
    """Logits of P(next bit = 1) of the one-layer transformer, (S, L - 1), from (S, L) bits."""
    state = {name: np.asarray(tensor, np.float64) for name, tensor in state.items()}
    x = state["wte.weight"][bits] + state["wpe.weight"][: bits.shape[1]]
    size, length, width = x.shape
    qkv = x @ state["c_attn.weight"].T + state["c_attn.bias"]
    q, k, v = (part.reshape(size, length, heads, -1).swapaxes(1, 2) for part in np.split(qkv, 3, axis=-1))
    scores = q @ k.swapaxes(2, 3) / np.sqrt(width // heads)
    scores = np.where(np.tri(length, dtype=bool), scores, -np.inf)
    attention = np.exp(scores - scores.max(axis=-1, keepdims=True))
    attention /= attention.sum(axis=-1, keepdims=True)
    h = (attention @ v).swapaxes(1, 2).reshape(size, length, width)
    h = (h - h.mean(axis=-1, keepdims=True)) / np.sqrt(h.var(axis=-1, keepdims=True) + 1e-5)
    h = h * state["ln_f.weight"] + state["ln_f.bias"]
    for layer in range(sum(name.startswith("linear_modules.") for name in state) // 2):
        hidden = h @ state[f"linear_modules.{layer}.weight"].T + state[f"linear_modules.{layer}.bias"]
        h = np.maximum(hidden, 0.0) + (h if layer else 0.0)
    z = h @ state["lm_head.weight"].T + state["lm_head.bias"]
    return (z[..., 1] - z[..., 0])[:, :-1]


def accuracy_of(state: dict[str, Any], bits: np.ndarray, heads: int) -> np.ndarray:
    """Share of right predictions of each sequence, (S,); a tie is half right."""
    blocks = [bits[begin : begin + BLOCK] for begin in range(0, len(bits), BLOCK)]
    logits = np.concatenate([one_layer_logits(state, block, heads) for block in blocks])
    return np.where(logits == 0, 0.5, (logits > 0) == bits[:, 1:]).mean(axis=1)


def swap_rows(record: dict[str, Any], count: int = 20) -> dict[str, np.ndarray] | None:
    """Accuracy of `count` groups of ranks at the end of a run: second sequences, first ones, first ones after the swap.

    None where the run had no switch, keeps no `pre_switch` snapshot, or is no one-layer transformer.
    """
    before = record["mlp_state_dict"].get("pre_switch")
    sequences = record.get("sequences", ())
    if before is None or len(sequences) < 2:
        return None
    swapped = dict(record["model_state_dict"])
    swapped.update({f"linear_modules.{name}": tensor for name, tensor in before["linear_modules"].items()})
    swapped.update({f"lm_head.{name}": tensor for name, tensor in before["lm_head"].items()})
    first, second = (np.asarray(table)[::10] for table in sequences[:2])
    heads, final = record["args"]["num_heads"], record["model_state_dict"]
    rows = {
        "second sequences": accuracy_of(final, second, heads),
        "first sequences": accuracy_of(final, first, heads),
        "first, after the swap": accuracy_of(swapped, first, heads),
    }
    return {
        name: np.array([part.mean() for part in np.array_split(row, count) if len(part)]) for name, row in rows.items()
    }


# %% The figure


def draw(records: list[dict[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    rows = [found for found in map(swap_rows, records) if found]
    count = 1 + (len(rows[0]) if rows else 0)
    widths = [3.2, *[1.0 + 0.18 * len(rows)] * (count - 1)]
    figure = Figure(figsize=(1.7 * sum(widths) + 1.2, 4.2), dpi=style.DPI, layout="constrained")
    panels = figure.subplots(1, count, squeeze=False, width_ratios=widths)[0]
    colors = style.bin_colors(len(records))
    for record, color in zip(records, colors):
        epochs, means = accuracy_by_group(record)
        for group, dashes in zip(range(means.shape[1]), ("-", "--", ":")):
            label = f"{num_parameters(record):,} parameters" if group == 0 else None
            panels[0].plot(epochs, means[:, group], dashes, color=color, label=label)
        for epoch in switch_epochs(record):
            panels[0].axvline(epoch, color=style.GREY, linewidth=0.8)
    panels[0].set(xlabel="epoch", ylabel="accuracy", title=f"ranks in {means.shape[1]} groups: first -, --, last :")
    panels[0].legend(fontsize=8, frameon=False)
    for panel, name in zip(panels[1:], rows[0] if rows else ()):
        table = np.stack([row[name] for row in rows], axis=1)
        image = panel.imshow(table, vmin=0.5, vmax=1.0, aspect="auto", cmap="viridis")
        panel.set(title=name, xlabel="run", xticks=range(len(rows)), yticks=[])
        panel.title.set_fontsize(8)
    if rows:
        panels[1].set_ylabel("rank (0 at the top)")
        figure.colorbar(image, ax=panels[-1], label="accuracy")
    return figure


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0], epilog="exit codes: 0 done, 64 usage, 65 corrupt data, 74 no such file"
    )
    parser.add_argument("pattern", type=command.path_argument, help="records, such as 'out/GROUP/*/*.pkl'")
    parser.add_argument(
        "-o", "--output", type=command.path_argument, default=Path("records.png"), help=".png, .pdf or .svg"
    )
    return command.carry_out(parser, act, argv)


def act(arguments: argparse.Namespace) -> None:
    style.check_format(arguments.output)
    with style.matplotlib_style():
        style.save(draw(load_records(str(arguments.pattern))), arguments.output)
    print(arguments.output)


# %%
if __name__ == "__main__":
    sys.exit(command.guarded(main))
