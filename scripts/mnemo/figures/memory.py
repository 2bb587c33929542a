"""The figures that take what this engine alone writes: when a sequence was seen last, transplants, probes, distances.

Each function takes the runs of each configuration that its figure is made from, and whether these are the small ones,
and returns a `rows.Drawn`. Needs Matplotlib; `probe` and figure 7 need scikit-learn.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mnemo import comparison, curves, members, probes
from mnemo.errors import DataError, require
from mnemo.figures import rows, style
from mnemo.figures.rows import Drawn, columns_of, parameters
from mnemo.runs import Run

Runs = Sequence[Run]
MIN_SCORES = 20  # of a point of the clock
MAX_BARS = 14  # of a ranking


# The forgetting clock -------------------------------------------------------------------------------------------------


def clock_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Loss against the steps since a sequence was last presented: while it is trained on, and after the switch."""
    run = groups[0][0]
    if not run.switches or "phase_0" not in run.sets:
        raise DataError(f"{run.path}: the forgetting clock needs a switch, and every rank of phase_0 evaluated")
    columns = run.sets["phase_0"]
    counts = _presentation_bins(int(columns["presentations"].max()))
    ages = curves.age_edges(int(columns["step"][-1]))
    colors = style.bin_colors(len(counts))
    figure, panels = rows.panels(2, "The forgetting clock", rows.common_settings([run]), sharey=True)
    records = []
    for panel, phase, title in zip(panels, (0, 1), ("while they are trained on", "after all were replaced")):
        these = np.flatnonzero((columns["phase"] == phase) if phase == 0 else (columns["phase"] >= 1))
        loss, age, number = curves.forgetting_clock(columns, these, counts, ages)
        loss = np.where(number >= MIN_SCORES, loss, np.nan)
        for index, (low, high) in reversed(list(enumerate(counts))):
            kept = np.isfinite(loss[index])
            panel.plot(age[index][kept], loss[index][kept], color=colors[index], marker="o", markersize=3.5)
            records += [
                {"phase": phase, "first_count": low, "last_count": high - 1, "age": float(a), "loss": float(value),
                 "scores": int(n)}
                for a, value, n in zip(age[index][kept], loss[index][kept], number[index][kept])
            ]  # fmt: skip
        rows.bayes_line(panel, run.theory.get(0, {}).get("loss_floor", math.nan))
        style.chance_line(panel, curves.chance(run)[0])
        rows.finish(panel, "steps since the last presentation", "loss (nats)" if phase == 0 else "", title)
        _age_axis(panel)
    handles = [style.handle(f"{low:,}–{high - 1:,}", color=color, linewidth=2.2)
               for (low, high), color in zip(counts, colors)]  # fmt: skip
    handles += [
        style.handle("Bayes floor of draws", color=style.INK, **style.DOTTED),
        style.handle("chance", **style.CHANCE),
    ]
    rows.legend(figure, handles, "presentations so far")
    return Drawn(figure, columns_of(records), _clock_numbers(records))


def _age_axis(panel: Any) -> None:
    """Zero, then decades."""
    panel.set_xscale("symlog", linthresh=1.0)
    decades = [0, *(10**power for power in range(1 + int(math.log10(max(1.0, panel.get_xlim()[1])))))]
    panel.set_xlim(-0.1, None)
    panel.set_xticks(decades, [f"{age:,}" for age in decades])


def _presentation_bins(most: int) -> list[tuple[int, int]]:
    """1-9, 10-99, ... up to `most`."""
    return [(10**power, 10 ** (power + 1)) for power in range(max(1, len(str(most))))]


def _clock_numbers(records: Sequence[dict]) -> dict[str, Any]:
    """Loss of sequences of some tens of presentations, soon after one and late; and what is left of the well known."""

    def line(phase: int, low: int) -> list[dict]:
        return [record for record in records if (record["phase"], record["first_count"]) == (phase, low)]

    lows = sorted({record["first_count"] for record in records if record["phase"] == 0})
    often = max(lows, default=1)
    tens, gone = line(0, 10), line(1, often)
    return {
        "growth": tens[-1]["loss"] - tens[0]["loss"] if len(tens) > 1 else math.nan,
        "repeated": [line(0, low)[0]["loss"] for low in lows if low >= 10],
        "after_switch": gone[-1]["loss"] if gone else math.nan,
        "forgotten": gone[-1]["loss"] - gone[0]["loss"] if len(gone) > 1 else math.nan,
    }  # fmt: skip


# The transplant matrix ------------------------------------------------------------------------------------------------

SETS = (("old", "old sequences"), ("new", "new sequences"), ("novel", "novel sequences"))


def transplant_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Accuracy of a copy with each subset of groups from before the switch, best for the old sequences first."""
    run = groups[0][0]
    found = probes.transplant(run)
    shown = [(name, title) for name, title in SETS if name in found.accuracy]
    order = np.argsort(-found.accuracy.get("old", found.accuracy[shown[0][0]]), kind="stable")
    matrix = np.stack([found.accuracy[name][order] for name, _ in shown], axis=1)
    figure, (groups_panel, panel) = rows.panels(
        2, "Which weights hold the memory?", rows.common_settings([run]), width=3.4
    )
    figure.set_figheight(1.4 + 0.2 * len(order))
    figure.subplots_adjust(top=1 - 0.95 / figure.get_figheight(), bottom=0.75 / figure.get_figheight(), wspace=0.06)
    groups_panel.imshow(found.taken[order], aspect="auto", cmap="Greys", vmin=0, vmax=1.6)
    image = panel.imshow(
        matrix, aspect="auto", cmap="viridis", vmin=min(0.5, float(matrix.min())), vmax=float(matrix.max())
    )
    for row, values in enumerate(matrix):
        for column, value in enumerate(values):
            dark = image.norm(value) < 0.55
            panel.text(
                column, row, f"{value:.3f}", ha="center", va="center", fontsize=7, color="white" if dark else style.INK
            )
    groups_panel.set_xticks(range(len(found.groups)), found.groups, rotation=35, ha="right")
    panel.set_xticks(range(len(shown)), [title.split()[0] for _, title in shown])
    for axes, title in (
        (groups_panel, "taken from before the switch (grey)"),
        (panel, "accuracy at the end, of sequences"),
    ):
        axes.set_yticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_title(title, loc="left", color=style.INK)
    before = _before_switch(run)
    words = [f"a row each of the {len(order)}\nsubsets of {len(found.groups)} groups,\nbest for the old first"]
    words += [f"\nold sequences right\nbefore the switch: {before:.3f}"] if math.isfinite(before) else []
    rows.legend(figure, [style.handle(word, linestyle="none") for word in words])
    records = [
        {**{group: int(taken) for group, taken in zip(found.groups, found.taken[row])},
         **{f"accuracy_{name}": float(found.accuracy[name][row]) for name, _ in shown},
         **{f"loss_{name}": float(found.loss[name][row]) for name, _ in shown}}
        for row in order
    ]  # fmt: skip
    return Drawn(figure, columns_of(records), _transplant_numbers(found, before))


def _before_switch(run: Run) -> float:
    """Accuracy of the first sequences at the last evaluation before they were replaced, over the ranks of `train`."""
    columns = curves.phase_columns(run.sets, 0, run.sets["train"]["rank"] if "train" in run.sets else None)
    row = None if columns is None else curves.moments(columns, 0, run.switches)[1]
    return math.nan if row is None else float(columns["accuracy"][row].mean(dtype=np.float64))


def _transplant_numbers(found: probes.Transplant, before: float) -> dict[str, Any]:
    """Of the old sequences: all put back over right before the switch, and the least with the old MLP over the most
    without it; of the novel ones how far they are from chance.
    """
    old, mlp = found.accuracy["old"], found.taken[:, found.groups.index("mlp")]
    return {
        "not_put_back": float(old[found.taken.all(axis=1)][0]) - before,
        "mlp_gap": float(old[mlp].min() - old[~mlp].max()),
        "novel": float(np.abs(found.accuracy["novel"] - 0.5).max()) if "novel" in found.accuracy else math.nan,
    }  # fmt: skip


# Stored bits ----------------------------------------------------------------------------------------------------------


def bits_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Stored bits, and bits a parameter, against parameters; the line is what a Bayes predictor stores."""
    records = []
    for run in sorted(groups[0], key=parameters):
        columns = curves.phase_columns(run.sets, 0)
        if columns is None:
            raise DataError(f"{run.path}: nothing has been evaluated")
        before, sizes = (
            curves.moments(columns, 0, run.switches)[1],
            (curves.predictions(run), curves.num_drawn(run)),
        )
        floor = curves.limits(run.theory, columns["rank"], 0)[0]
        most = math.nan if floor is None else float(curves.stored_bits(floor, *sizes))
        records.append({"run": run.path.name, "parameters": parameters(run), "bits_bayes": most,
                        "bits": float(curves.stored_bits(columns["loss"][before], *sizes))})  # fmt: skip
    size, bits = (np.array([record[key] for record in records], np.float64) for key in ("parameters", "bits"))
    figure, panels = rows.panels(2, "Stored bits against parameters", rows.common_settings(groups[0]))
    for panel, y in zip(panels, (bits, bits / size)):
        panel.plot(size, y, color=style.CATEGORIES[0], linestyle="none", marker="o", markersize=5, alpha=0.7)
    best = np.maximum.accumulate(bits)
    panels[0].step(size, best, color=style.GREY, linewidth=1.0, where="post")
    rows.bayes_line(panels[0], records[0]["bits_bayes"])
    for panel, y in zip(panels, ("stored bits", "stored bits a parameter")):
        style.chance_line(panel, 0.0)
        rows.finish(panel, "parameters", y)
        rows.log_axis(panel.xaxis)
    rows.legend(figure, [
        style.handle("a run", color=style.CATEGORIES[0], linestyle="none", marker="o", markersize=5, alpha=0.7),
        style.handle("most of so few\nparameters", color=style.GREY),
        style.handle("Bayes predictor", color=style.INK, **style.DOTTED), style.handle("a guess", **style.CHANCE),
    ], "sum over sequences of\n(chance - loss), in bits")  # fmt: skip
    for record in records:
        record["bits_per_parameter"] = record["bits"] / record["parameters"]
    return Drawn(figure, columns_of(records), {
        "bits_by_decade": _by_decade(size, bits), "share_of_bayes": float(bits.max() / records[0]["bits_bayes"]),
        "fewest_parameters": float(bits[0] / records[0]["bits_bayes"]),
    })  # fmt: skip


def _by_decade(size: np.ndarray, bits: np.ndarray) -> list[float]:
    """The most bits of the runs of each decade of parameters that holds one."""
    decade = np.floor(np.log10(size))
    return [float(bits[decade == value].max()) for value in np.unique(decade)]


# Probes ---------------------------------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=8)
def _linear_probes(path: Path) -> list[probes.LinearProbe]:
    """Kept: figure 7 and `probe` are made of the same."""
    return probes.linear_probes(Run(path))


def fork_accuracies(found: Sequence[probes.ForkProbe]) -> tuple[dict[int, float], int]:
    """Accuracy of the fork probe at each step of the run, after as many steps as the shortest one took, and that."""
    steps = min(len(probe.accuracy) for probe in found)
    return {probe.step: probes.accuracy_at(probe, steps) for probe in found}, steps


def _probed(run: Run) -> tuple[list[probes.LinearProbe], list[probes.ForkProbe]]:
    forks = probes.fork_probes(run)
    if not forks:
        raise DataError(f"{run.path}: no fork probes; the configuration needs events of kind fork_probe")
    return _linear_probes(run.path), forks


def separability_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Figure 7: how separable novel sequences are by a linear map against how well a fork probe learns them."""
    run = groups[0][0]
    linear, forks = _probed(run)
    accuracy, steps = fork_accuracies(forks)
    figure, panels = rows.panels(2, "Figure 7. Separable, and learned faster", rows.common_settings([run]), sharey=True)
    layers = sorted({probe.layer for probe in linear})
    records, measured = [], {}
    for panel, target, part in zip(panels, probes.TARGETS, ("accuracy", "fitted")):
        for layer, color in zip(layers, style.CATEGORIES):
            points = [(getattr(probe, part), accuracy[probe.step], probe.step) for probe in linear
                      if (probe.layer, probe.target) == (layer, target) and probe.step in accuracy]  # fmt: skip
            panel.plot(*zip(*((x, y) for x, y, _ in points)), color=color, marker="o", markersize=4.5, linewidth=0.8)
            records += [{"target": target, "layer": layer, "step": step, "separability": x, "fork_accuracy": y}
                        for x, y, step in points]  # fmt: skip
            measured[f"{target}_{layer}"] = _correlation([point[:2] for point in points])
        chance = next(probe.chance for probe in linear if probe.target == target)
        panel.axvline(chance, zorder=0.5, **style.CHANCE)
        style.chance_line(panel, 0.5)
    rows.finish(
        panels[0], "which sequence: accuracy at other positions", f"accuracy of the fork probe after {steps} steps"
    )
    rows.finish(panels[1], "the next bit: accuracy where it was fitted")
    rows.legend(figure, [*_layer_handles(layers), style.handle("chance", **style.CHANCE)], "linear probe of")
    return Drawn(figure, columns_of(records), measured)


def _correlation(points: Sequence[tuple[float, float]]) -> float:
    x, y = np.array(points, np.float64).T
    return float(np.corrcoef(x, y)[0, 1]) if len(x) > 2 and x.std() > 0 and y.std() > 0 else math.nan


def _layer_handles(layers: Sequence[int]) -> list[Any]:
    names = [("what enters the MLP" if layer == 0 else f"its layer {layer}") for layer in layers]
    return [style.handle(name, color=color, linewidth=2.0) for name, color in zip(names, style.CATEGORIES)]


def probe_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Over training: linear probes of each layer, and the steps that a fork probe needs."""
    run = groups[0][0]
    linear, forks = _probed(run)
    layers = sorted({probe.layer for probe in linear})
    figure, panels = rows.panels(3, "Linear probes and fork probes", rows.common_settings([run]))
    for panel, target, part in zip(panels, probes.TARGETS, ("accuracy", "fitted")):
        for layer, color in zip(layers, style.CATEGORIES):
            line = [probe for probe in linear if (probe.layer, probe.target) == (layer, target)]
            panel.plot([p.step for p in line], [getattr(p, part) for p in line], color=color, marker="o", markersize=4)
            if target == "next_bit":
                panel.plot([p.step for p in line], [p.accuracy for p in line], color=color, **style.DASHED)
        style.chance_line(panel, next(probe.chance for probe in linear if probe.target == target))
    rows.finish(panels[0], "step", "held-out accuracy", "linear: which novel sequence?")
    rows.finish(panels[1], "step", "accuracy", "linear: its next bit?")
    given_up = [probe for probe in forks if not math.isfinite(probe.steps_needed)]
    needed = [probe for probe in forks if math.isfinite(probe.steps_needed)]
    panels[2].plot(
        [p.step for p in needed], [p.steps_needed for p in needed], color=style.INK, marker="o", markersize=4
    )
    panels[2].plot(
        [p.step for p in given_up], [len(p.accuracy) for p in given_up], color=style.INK, marker="^", linestyle="none"
    )
    rows.finish(panels[2], "step", f"steps to accuracy {forks[0].until:g}", "fork probe: learns novel sequences")
    rows.log_axis(panels[2].yaxis)
    for panel in panels:
        rows.step_axis(panel)
    rows.legend(figure, [
        *_layer_handles(layers), style.handle("held out", color=style.INK, **style.DASHED),
        style.handle("gave up", color=style.INK, marker="^", linestyle="none"), style.handle("chance", **style.CHANCE),
    ], "linear probe of")  # fmt: skip
    records = [{"probe": probe.target, "layer": probe.layer, "step": probe.step, "accuracy": probe.accuracy,
                "fitted": probe.fitted, "steps_needed": math.nan} for probe in linear]  # fmt: skip
    records += [{"probe": f"fork {probe.name}", "layer": -1, "step": probe.step, "fitted": math.nan,
                 "accuracy": float(probe.accuracy[-probes.WINDOW :].mean()), "steps_needed": probe.steps_needed}
                for probe in forks]  # fmt: skip
    return Drawn(figure, columns_of(records), _probe_numbers(linear, forks))


def _probe_numbers(linear: Sequence[probes.LinearProbe], forks: Sequence[probes.ForkProbe]) -> dict[str, Any]:
    first, last = (step(probe.step for probe in linear) for step in (min, max))

    def of(step: int, target: str, part: str) -> float:
        """At its best layer."""
        return max(getattr(probe, part) for probe in linear if (probe.step, probe.target) == (step, target))

    held_out = [abs(probe.accuracy - 0.5) for probe in linear if probe.target == "next_bit"]
    untrained = min(probe.steps_needed if math.isfinite(probe.steps_needed) else len(probe.accuracy)
                    for probe in forks if probe.step == forks[0].step)  # fmt: skip
    return {
        "sequence_gain": of(last, "sequence", "accuracy") - of(first, "sequence", "accuracy"),
        "next_bit_gain": of(last, "next_bit", "fitted") - of(first, "next_bit", "fitted"),
        "held_out_bias": max(held_out), "fork_speedup": untrained / forks[-1].steps_needed,
    }  # fmt: skip


# Transformer and associative memory -----------------------------------------------------------------------------------


def _chosen_bins(runs: Runs) -> list[curves.Bin]:
    return curves.rank_bins(min(run.num_sequences for run in runs))


def draw_over(
    panel: Any, run: Run, phase: int, bins: Sequence[curves.Bin], colors: Sequence[Any], look: dict
) -> list[dict]:
    """Accuracy against presentations by rank bin of one run in one phase; the records of what is drawn."""
    columns = curves.phase_columns(run.sets, phase)
    if columns is None:
        return []
    columns = curves.while_current(columns, phase)
    seen, accuracy = (curves.bin_mean(columns[key], columns["rank"], bins) for key in ("presentations", "accuracy"))
    limit, records = curves.limits(run.theory, columns["rank"], phase)[1], []
    ceilings = None if limit is None else curves.bin_mean(limit, columns["rank"], bins)
    for index, (ranks, color) in enumerate(zip(bins, colors)):
        kept = seen[:, index] > 0
        panel.plot(seen[kept, index], accuracy[kept, index], color=color, **look)
        if ceilings is not None and kept.any():
            panel.plot(seen[kept, index][[0, -1]], ceilings[[index, index]], color=color, **style.DOTTED)
        records += [{"run": run.path.name, "kind": run.facts["model"]["kind"], "phase": phase, "first_rank": ranks[0],
                     "last_rank": ranks[1] - 1, "presentations": float(x), "accuracy": float(y)}
                    for x, y in zip(seen[kept, index], accuracy[kept, index])]  # fmt: skip
    return records


LOOKS = ({"linewidth": 1.7}, {"linewidth": 1.5, "dashes": (4.0, 1.6)})  # transformer, associative memory


def _over(figure: Any, panels: Sequence[Any], pair: Runs, names: Sequence[str]) -> list[dict]:
    """Two runs over each other, a panel a phase; the records of what is drawn."""
    bins = _chosen_bins(pair)
    colors, records = style.bin_colors(len(bins)), []
    for phase, panel in enumerate(panels):
        for run, look in zip(pair, LOOKS):
            records += draw_over(panel, run, phase, bins, colors, look)
        style.chance_line(panel, curves.chance(pair[0])[1])
        rows.finish(panel, "presentations (mean of a bin)", "accuracy" if phase == 0 else "",
                    "first sequences" if phase == 0 else f"after switch {phase}")  # fmt: skip
        if any(len(line.get_xdata()) and min(line.get_xdata()) > 0 for line in panel.lines):
            rows.log_axis(panel.xaxis)
    handles = [style.handle(style.cut(name, 26), color=style.INK, **look) for name, look in zip(names, LOOKS)]
    handles += style.bin_handles(dict(zip(bins, colors)))[: len(bins)]
    handles += [style.handle("Bayes ceiling", color=style.INK, **style.DOTTED), style.handle("chance", **style.CHANCE)]
    rows.legend(figure, handles)
    return records


def overlay_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """A transformer and an associative memory on the same data and draws: accuracy against presentations."""
    pair = [groups[0][0], groups[1][0]]
    for run in pair:
        if run.config["data"]["num_sequences"] != pair[0].config["data"]["num_sequences"]:
            raise DataError(f"{run.path}: other data than {pair[0].path}; the overlay compares models on the same data")
    title = "A transformer and an associative memory on the same draws"
    data = f"K {pair[0].num_sequences} · L {pair[0].config['data']['length']}"
    figure, panels = rows.panels(2, title, data, sharey=True)
    records = _over(figure, panels, pair, ["transformer", "associative memory"])
    transformer, dam = (_learning(run) for run in pair)
    return Drawn(figure, columns_of(records), {
        "memory_lead": dam["mean"] - transformer["mean"],
        "transformer_gain": transformer["gain"], "memory_gain": dam["gain"],
        "over_ceiling": max(transformer["over"], dam["over"]),
    })  # fmt: skip


def _learning(run: Run) -> dict[str, float]:
    """Of the ten most frequent: mean accuracy over phase 0, what phase 1 gains on it, the end over its ceiling."""
    means, over = [], []
    for phase in range(len(run.switches) + 1):
        columns = curves.phase_columns(run.sets, phase)
        require(columns is not None, f"{run.path}: nothing of phase {phase} has been evaluated")
        columns = curves.while_current(columns, phase)
        means.append(curves.bin_mean(columns["accuracy"], columns["rank"], [(0, 10)])[:, 0])
        limit = curves.limits(run.theory, columns["rank"], phase)[1]
        over.append(means[-1][-1] - curves.bin_mean(limit, columns["rank"], [(0, 10)])[0])
    gain = float(means[1].mean() - means[0].mean()) if len(means) > 1 else math.nan
    return {"mean": float(means[0].mean()), "gain": gain, "over": float(max(over))}


# The associative memory that fits best --------------------------------------------------------------------------------


def fit_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Memories by the distance of their curves from a transformer's, as `compare --against` ranks them; the nearest."""
    target = members.find([groups[0][0].path])[0]
    candidates = members.find([run.path for run in groups[1]], each=True)
    result = comparison.rank_against(target, candidates, None)["ranking"]
    finite = [row for row in result if math.isfinite(row["distance"])]
    if not finite:
        raise DataError(f"{groups[0][0].path}: no run has a stretch of presentations in common with it")
    nearest = next(run for member in candidates if member.name == finite[0]["run"] for run in member.runs)
    keys = [key for key in finite[0] if key.startswith("model.")]
    figure, panels = rows.panels(3, "The associative memory that learns most like a transformer",
                                 f"target: {groups[0][0].settings_line(' · ')}")  # fmt: skip
    _over(figure, panels[1:], [groups[0][0], nearest], ["transformer", "memory, the nearest"])
    _draw_ranking(panels[0], finite, keys)
    for panel in panels[1:]:
        panel.set_ylim(0.45, 1.0)
    table = columns_of([{key: row[key] for key in ("run", "distance", "decades", *keys)} for row in finite])
    return Drawn(figure, table, {
        "nearest": finite[0]["distance"], "spread": finite[-1]["distance"] - finite[0]["distance"],
        "on_edge": float(sum(_on_edge([row[key] for row in finite]) for key in keys)),
    })  # fmt: skip


def _on_edge(values: Sequence[float]) -> bool:
    """Whether the first is the least or the largest; two values have nothing but edges, and tell nothing."""
    return len(set(values)) > 2 and values[0] in (min(values), max(values))


def _draw_ranking(panel: Any, ranking: Sequence[dict], keys: Sequence[str]) -> None:
    """Bars of the nearest, the best on top; a name is in its bar where that is long enough."""
    shown = ranking[:MAX_BARS]
    colors = [style.CATEGORIES[1]] + [style.GREY] * (len(shown) - 1)
    panel.barh(range(len(shown)), [row["distance"] for row in shown], color=colors, height=0.7)
    panel.set_yticks([])
    widest = max(row["distance"] for row in shown) or 1.0
    for place, row in enumerate(shown):
        name = ", ".join(f"{_letter(key)} {row[key]}" for key in keys)
        if row["distance"] > 0.55 * widest:
            place_of_text, look = row["distance"] - 0.01 * widest, {"ha": "right", "color": "white"}
        else:
            place_of_text, look = row["distance"] + 0.01 * widest, {"ha": "left", "color": style.INK}
        panel.text(place_of_text, place, name, va="center", fontsize=7, **look)
    panel.invert_yaxis()
    rows.finish(panel, "distance (mean difference of accuracy)", "", f"the nearest {len(shown)} of {len(ranking)}")
    panel.grid(visible=False)


def _letter(key: str) -> str:
    return {"model.heads": "H", "model.capacity": "M"}.get(key, key.split(".")[-1])
