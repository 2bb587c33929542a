"""The figures of the draft (NOTEBOOKS 8): what is drawn, and the numbers that are held against the published ones.

Each function takes the runs of each configuration that its figure is made from, and whether these are the small ones,
and returns a `rows.Drawn`. Needs Matplotlib. Letters: T evaluations, S ranks, E rank bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mnemo import curves
from mnemo.errors import DataError
from mnemo.figures import rows, style
from mnemo.figures.rows import Drawn, columns_of, parameters
from mnemo.runs import Run

Runs = Sequence[Run]
STUCK = 0.3  # nats: a train loss above it has failed, with more than a million parameters
LEARNED = 0.9  # accuracy, or with the small runs share of the way to the ceiling
BLOCK, ROLLING = 100, 5  # steps of a bin of figure 9, bins of its rolling mean
HEAT_ROWS = 40


# What several figures ask of a run ------------------------------------------------------------------------------------


def train_loss(run: Run) -> float:
    """The mean over the steps since the log line before the last."""
    loss = run.metrics["train_loss"]
    return float(loss[-1]) if len(loss) else math.nan


def current(run: Run, phase: int) -> dict[str, np.ndarray]:
    """The sequences of a phase while it was current; DataError where none was scored."""
    columns = curves.phase_columns(run.sets, phase)
    if columns is None:
        raise DataError(
            f"{run.path}: the sequences of phase {phase} were not evaluated; does its configuration switch?"
        )
    return curves.select_rows(columns, np.flatnonzero(columns["phase"] == phase))


def learned_margin(run: Run, columns: Any, small: bool) -> np.ndarray:
    """Accuracy minus what counts as learned, (T, S): .9; of small runs, whose ceilings are lower, 90 % of the way."""
    ceiling = curves.limits(run.theory, columns["rank"], int(columns["phase"][-1]))[1]
    threshold = (small and ceiling is not None, LEARNED)
    return columns["accuracy"] - curves.target_accuracy(threshold, ceiling, len(columns["rank"]))


def colors_of(runs: Runs) -> dict[int, Any]:
    """Dark to light with the number of parameters."""
    sizes = sorted({parameters(run) for run in runs})
    return dict(zip(sizes, style.bin_colors(len(sizes))))


def parameter_handles(colors: dict[int, Any]) -> list[Any]:
    return rows.few([rows.handle(f"{size:,}", color=color, linewidth=2.2) for size, color in colors.items()])


def heads_of(run: Run) -> int:
    return int(run.config["model"].get("heads", 1))


# Figures 1 and 2: how far learning gets with parameters ---------------------------------------------------------------


def parameters_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Figure 1: loss, accuracy of the first 1000 evaluated rows and the largest learned rank against parameters."""
    records = []
    for run in groups[0]:
        columns = current(run, 0)
        margin, rank = learned_margin(run, columns, small)[-1], columns["rank"]
        records.append({
            "run": run.path.name, "heads": heads_of(run), "parameters": parameters(run), "train_loss": train_loss(run),
            "accuracy": float(columns["accuracy"][-1][:1000].mean(dtype=np.float64)),
            "largest_learned_rank": curves.largest_learned_rank(rank, margin, 5 if small else 50),
        })  # fmt: skip
    records.sort(key=lambda record: (record["heads"], record["parameters"]))
    heads = sorted({record["heads"] for record in records})
    colors = dict(zip(heads, style.bin_colors(len(heads))))
    figure, panels = rows.panels(3, "Figure 1. What parameters buy", rows.common_settings(groups[0]))
    for panel, key in zip(panels, ("train_loss", "accuracy", "largest_learned_rank")):
        for count, color in colors.items():
            line = [record for record in records if record["heads"] == count]
            y = [record[key] if key != "largest_learned_rank" or record[key] > 0 else np.nan for record in line]
            panel.plot([record["parameters"] for record in line], y, color=color, marker="o", markersize=4)
    _parameter_panels(panels, groups[0])
    legend = [rows.handle(f"{count} heads", color=color, linewidth=2.2) for count, color in colors.items()]
    limit = rows.handle("Bayes limit", color=style.INK, **style.DOTTED)
    rows.legend(figure, [*legend, limit, rows.handle("chance", **rows.CHANCE)])
    return Drawn(figure, columns_of(records), _parameter_numbers(records, groups[0]))


def _parameter_panels(panels: Sequence[Any], runs: Runs) -> None:
    loss, accuracy, rank = panels
    rows.bayes_line(loss, runs[0].theory.get(0, {}).get("loss_floor", math.nan))
    limit = curves.limits(runs[0].theory, current(runs[0], 0)["rank"][:1000], 0)[1]
    rows.bayes_line(accuracy, math.nan if limit is None else float(limit.mean()))
    for panel, chance in zip(panels, curves.chance(runs[0])):
        rows.chance_line(panel, chance)
    rows.finish(loss, "parameters", "train loss (nats)")
    rows.finish(accuracy, "parameters", "accuracy, first 1000 evaluated ranks")
    rows.finish(rank, "parameters", "largest learned rank")
    for panel in panels:
        rows.log_axis(panel.xaxis)
    if any(np.isfinite(line.get_ydata()).any() for line in rank.lines):
        rows.log_axis(rank.yaxis)


def _parameter_numbers(records: Sequence[dict], runs: Runs) -> dict[str, Any]:
    best = {size: max(record["accuracy"] for record in records if record["parameters"] == size)
            for size in sorted({record["parameters"] for record in records})}  # fmt: skip
    failed = [record for record in records if record["parameters"] > 1e6 and record["train_loss"] > STUCK]
    large = [record for record in records if record["parameters"] >= 9e6]
    middle = [value for size, value in best.items() if 5e6 < size < 8e6]
    learned = {size: max(record["largest_learned_rank"] for record in records if record["parameters"] == size)
               for size in best}  # fmt: skip
    return {
        "accuracy_by_parameters": list(best.values()), "rank_by_parameters": list(learned.values()),
        "accuracy_6e6": max(middle, default=math.nan), "failed": len(failed) / max(1, len(records)),
        "stuck_above_9e6": float(np.mean([r["train_loss"] > STUCK for r in large])) if large else math.nan,
        "loss_over_floor": min(record["train_loss"] for record in records) - runs[0].theory[0]["loss_floor"],
    }  # fmt: skip


def presentations_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Figure 2: presentations, and steps, until the first evaluation at which a rank is learned, against rank."""
    records, slopes = [], []
    for run in sorted(groups[0], key=parameters):
        columns = current(run, 0)
        target = columns["accuracy"][0] - learned_margin(run, columns, small)[0]
        steps = np.broadcast_to(columns["step"][:, None], columns["accuracy"].shape)
        seen, when = (
            curves.presentations_to(columns["accuracy"], x, target) for x in (columns["presentations"], steps)
        )
        rank, reached = columns["rank"], np.isfinite(seen) & (seen > 0)
        for first, end in _rank_bins(rank[reached]):
            inside = reached & (rank >= first) & (rank < end)
            medians = {"presentations": np.median(seen[inside]), "steps": np.median(when[inside])}
            records.append(
                {
                    "run": run.path.name,
                    "parameters": parameters(run),
                    "first_rank": first,
                    "last_rank": end - 1,
                    "ranks": int(inside.sum()),
                    **{key: float(value) for key, value in medians.items()},
                }
            )
        if len(np.unique(rank[reached])) > 2:
            slopes.append(float(np.polyfit(np.log(rank[reached] + 1.0), np.log(seen[reached]), 1)[0]))
    colors = colors_of(groups[0])
    figure, panels = rows.panels(2, "Figure 2. When a rank is learned", rows.common_settings(groups[0]))
    for panel, key in zip(panels, ("presentations", "steps")):
        for size, color in colors.items():
            line = [record for record in records if record["parameters"] == size]
            x = [math.sqrt((record["first_rank"] + 1) * (record["last_rank"] + 1)) for record in line]
            panel.plot(x, [record[key] for record in line], color=color, marker="o", markersize=3.5)
        rows.finish(panel, "rank + 1", f"{key} until learned (median of a bin of ranks)")
        if records:
            rows.log_axis(panel.xaxis)
            rows.log_axis(panel.yaxis)
    rows.legend(figure, parameter_handles(colors), "parameters")
    return Drawn(figure, columns_of(records), {"slope": float(np.median(slopes)) if slopes else math.nan})


def _rank_bins(rank: np.ndarray) -> list[tuple[int, int]]:
    """Bins of ranks, five a decade of rank + 1, those that hold one of `rank`."""
    if len(rank) == 0:
        return []
    edges = np.unique(np.round(10 ** np.arange(0, math.log10(rank.max() + 1) + 0.2001, 0.2)).astype(int)) - 1
    return curves.bins_with(rank, list(zip(edges.tolist(), [*edges[1:-1].tolist(), int(rank.max()) + 1])))


# Figures 3 and 5: accuracy over a switch ------------------------------------------------------------------------------


def switch_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Figures 3 and 5: accuracy of three bins of ranks against step, a colour for each number of parameters."""
    runs = sorted(groups[0], key=parameters)
    width = max(1, runs[0].num_sequences // (10 if small else 100))
    bins = [(start, start + width) for start in (0, width, 2 * width)]
    colors, records = colors_of(runs), []
    figure, panels = rows.panels(3, "Accuracy by rank, before and after all sequences are replaced",
                                 rows.common_settings(runs), sharey=True)  # fmt: skip
    for run in runs:
        for phase in range(len(run.switches) + 1):
            columns = current(run, phase)
            accuracy = curves.bin_mean(columns["accuracy"], columns["rank"], bins)
            limit = curves.limits(run.theory, columns["rank"], phase)[1]
            ceilings = np.full(3, np.nan) if limit is None else curves.bin_mean(limit, columns["rank"], bins)
            for index, panel in enumerate(panels):
                panel.plot(columns["step"], accuracy[:, index], color=colors[parameters(run)], linewidth=1.5)
                panel.plot(columns["step"][[0, -1]], ceilings[[index, index]], color=style.INK, **style.DOTTED)
                records += [
                    {"run": run.path.name, "parameters": parameters(run), "phase": phase, "step": int(step),
                     "first_rank": bins[index][0], "last_rank": bins[index][1] - 1, "accuracy": float(value),
                     "ceiling": float(ceilings[index])}
                    for step, value in zip(columns["step"], accuracy[:, index])
                ]  # fmt: skip
    for panel, (first, end) in zip(panels, bins):
        rows.chance_line(panel, curves.chance(runs[0])[1])
        for entry in runs[0].switches:
            rows.switch_line(panel, entry["step"])
        rows.finish(panel, "step", "accuracy" if panel is panels[0] else "", f"ranks {first}–{end - 1}")
        rows.step_axis(panel)
    limit, chance = rows.handle("Bayes ceiling", color=style.INK, **style.DOTTED), rows.handle("chance", **rows.CHANCE)
    rows.legend(figure, [*parameter_handles(colors), limit, chance], "parameters")
    return Drawn(figure, columns_of(records), switch_numbers(records, runs[-1].path.name))


def switch_numbers(records: Sequence[dict], run: str) -> dict[str, Any]:
    """Of one run, from the records of `switch_figure`: plateaus by bin, and accuracies over both phases."""
    own = [record for record in records if record["run"] == run]
    ranks = sorted({record["first_rank"] for record in own})

    def of(phase: int, first: int) -> list[dict]:
        return [record for record in own if (record["phase"], record["first_rank"]) == (phase, first)]

    before, after = ([of(phase, first)[-1] for first in ranks] for phase in (0, 1))
    means = [float(np.mean([record["accuracy"] for record in of(phase, ranks[0])])) for phase in (0, 1)]
    gaps = [record["accuracy"] - record["ceiling"] for record in (*before, *after)]
    return {
        "plateaus": [record["accuracy"] for record in before],
        "plateaus_after": [record["accuracy"] for record in after],
        **{f"plateau_{index}": record["accuracy"] for index, record in enumerate(before)},
        "over_ceiling": max(gaps), "right_after": of(1, ranks[0])[0]["accuracy"], "gain": means[1] - means[0],
    }  # fmt: skip


# Figure 4: width of attention, width of the MLP -----------------------------------------------------------------------


def frontier_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Figure 4: train loss against parameters, a line for each width C, along which the MLP's width varies."""
    records = sorted(
        ({"run": run.path.name, "width": heads_of(run) * int(run.config["model"]["head_dim"]),
          "parameters": parameters(run), "train_loss": train_loss(run)} for run in groups[0]),
        key=lambda record: (record["width"], record["parameters"]),
    )  # fmt: skip
    widths = sorted({record["width"] for record in records})
    colors = dict(zip(widths, style.bin_colors(len(widths))))
    figure, (panel,) = rows.panels(1, "Figure 4. Where parameters help", rows.common_settings(groups[0]), width=5.6)
    for width, color in colors.items():
        line = [record for record in records if record["width"] == width]
        panel.plot([record["parameters"] for record in line], [record["train_loss"] for record in line],
                   color=color, marker="o", markersize=4)  # fmt: skip
    ordered = sorted(records, key=lambda record: record["parameters"])
    best = np.minimum.accumulate([record["train_loss"] for record in ordered])
    panel.step([record["parameters"] for record in ordered], best, color=style.GREY, linewidth=1.0, where="post")
    floor = groups[0][0].theory.get(0, {}).get("loss_floor", math.nan)
    rows.bayes_line(panel, floor)
    rows.chance_line(panel, curves.chance(groups[0][0])[0])
    rows.finish(panel, "parameters", "train loss (nats)")
    rows.log_axis(panel.xaxis)
    handles = [rows.handle(f"C = {width}", color=color, linewidth=2.2) for width, color in colors.items()]
    handles += [rows.handle("frontier", color=style.GREY), rows.handle("Bayes floor", color=style.INK, **style.DOTTED)]
    rows.legend(figure, [*handles, rows.handle("chance", **rows.CHANCE)])
    losses = {record["parameters"]: loss for record, loss in zip(ordered, best)}
    return Drawn(figure, columns_of(records), {
        "frontier_1e3": min((loss for size, loss in losses.items() if size < 3e3), default=math.nan),
        "frontier_1e7": min((loss for size, loss in losses.items() if size < 3e7), default=math.nan),
        "by_width": [min(record["train_loss"] for record in records if record["width"] == width) for width in widths],
        "worst": max(record["train_loss"] for record in records), "best": float(best[-1]),
        "over_floor": float(best[-1]) - floor,
    })  # fmt: skip


# Figure 6: the swap test ----------------------------------------------------------------------------------------------

SWAP_PANELS = (("second", "second sequences"), ("first", "first sequences"),
               ("swapped", "first sequences, old MLP and head"))  # fmt: skip


def swap_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Figure 6: heat maps rank x parameters at the end of a run, of true ranks."""
    runs = sorted(groups[0], key=parameters)
    records = [record for run in runs for record in _swap_records(run)]
    sizes = sorted({record["parameters"] for record in records})
    bins = sorted({(record["first_rank"], record["last_rank"]) for record in records})
    figure, panels = rows.panels(
        3, "Figure 6. Is the memory in the MLP?", rows.common_settings(runs), sharey=True, beside=0.9
    )
    for panel, (key, title) in zip(panels, SWAP_PANELS):
        image = np.full((len(bins), len(sizes)), np.nan)
        for y, ranks in enumerate(bins):
            for x, size in enumerate(sizes):
                found = [record[key] for record in records if record["parameters"] == size
                         and (record["first_rank"], record["last_rank"]) == ranks]  # fmt: skip
                image[y, x] = np.mean(found)
        shown = panel.imshow(image, aspect="auto", origin="upper", vmin=0.5, vmax=1.0, cmap="viridis")
        rows.finish(panel, "parameters", "ranks" if panel is panels[0] else "", title)
        panel.grid(visible=False)
        panel.spines[:].set_visible(False)
        kept = np.unique(np.linspace(0, len(sizes) - 1, min(len(sizes), 5)).round().astype(int))
        panel.set_xticks(kept, [f"{sizes[index]:,}" if sizes[index] < 1e6 else f"{sizes[index]:.2g}" for index in kept])
    named = np.unique(np.linspace(0, len(bins) - 1, min(len(bins), 10)).round().astype(int))
    panels[0].set_yticks(named, ["–".join(dict.fromkeys(map(str, bins[index]))) for index in named])
    bar = figure.colorbar(shown, ax=panels, fraction=0.02, pad=0.015)
    bar.set_label("accuracy")
    bar.outline.set_visible(False)
    return Drawn(figure, columns_of(records), _swap_numbers(records, sizes))


def _swap_records(run: Run) -> list[dict[str, Any]]:
    """Means over bins of ranks at the end of a run."""
    swapped = next((run.sets[name] for name in run.sets if name.endswith("swap.phase_0")), None)
    if swapped is None or not len(swapped["step"]):
        raise DataError(f"{run.path}: no swap test of phase_0; the configuration needs an event of kind swap_test")
    of_set = {"second": run.sets["phase_1"], "first": run.sets["phase_0"], "swapped": swapped}
    bins = _rank_bins(swapped["rank"])
    means = {name: curves.bin_mean(columns["accuracy"][-1], columns["rank"], bins) for name, columns in of_set.items()}
    return [
        {"run": run.path.name, "parameters": parameters(run), "first_rank": first, "last_rank": end - 1,
         **{name: float(mean[index]) for name, mean in means.items()}}
        for index, (first, end) in enumerate(bins)
    ]  # fmt: skip


def _swap_numbers(records: Sequence[dict], sizes: Sequence[int]) -> dict[str, Any]:
    """Of the top ten ranks with most parameters, of the top hundred by parameters; the most at 1e7 to 4e7 of them."""

    def top(key: str, size: int, ranks: int = 10) -> float:
        found = [record for record in records if record["parameters"] == size and record["last_rank"] < ranks]
        return float(np.average([r[key] for r in found], weights=[1 + r["last_rank"] - r["first_rank"] for r in found]))

    largest = {key: top(key, sizes[-1]) for key, _ in SWAP_PANELS}
    published = [top("swapped", size) for size in sizes if 1e7 <= size <= 4e7]
    return {
        **largest, "recovered": largest["swapped"] - largest["first"], "swapped_1e7": max(published, default=math.nan),
        "swapped_by_parameters": [top("swapped", size, 100) for size in sizes],
    }  # fmt: skip


# Figure 8: attention maps ---------------------------------------------------------------------------------------------

MAX_HEADS, MAX_SEQUENCES = 6, 4


def attention_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Figure 8: the attention map of each head (row) on the most frequent sequences (column), at the end of a run."""
    from matplotlib.figure import Figure

    run = groups[0][0]
    if "attn_reps" not in run.attention or not len(run.attention["step"]):
        raise DataError(f"{run.path}: no attention maps; the configuration needs eval.attention: [attn_reps]")
    maps = run.attention["attn_reps"][-1][:MAX_SEQUENCES, :MAX_HEADS]
    sequences, heads, length, _ = maps.shape
    figure = Figure(figsize=(1.0 + 1.75 * sequences, 1.0 + 1.75 * heads), dpi=style.DPI, facecolor="white")
    panels = figure.subplots(heads, sequences, squeeze=False, sharex=True, sharey=True)
    figure.subplots_adjust(
        left=0.09, right=0.98, top=1 - 0.85 / figure.get_figheight(), bottom=0.07, wspace=0.06, hspace=0.06
    )
    for sequence in range(sequences):
        for head in range(heads):
            weights = maps[sequence, head] * np.arange(1, length + 1)[:, None]  # 1 = as much as a flat row gives
            panels[head][sequence].imshow(np.where(np.tri(length), weights, np.nan), cmap="viridis", vmin=0.0, vmax=3.0)
        panels[0][sequence].set_title(f"sequence {sequence}", loc="left", fontsize=8.5)
    for head in range(heads):
        panels[head][0].set_ylabel(f"head {head}\nposition")
    for panel in panels[-1]:
        panel.set_xlabel("attends to")
    figure.text(0.02, 1 - 0.22 / figure.get_figheight(), "Figure 8. Where heads look", fontweight="bold", fontsize=11)
    note = "attention x number of positions seen: dark 0, light 3 times the mean; above the diagonal nothing"
    figure.text(0.02, 1 - 0.45 / figure.get_figheight(), note, fontsize=8, color="#555555")
    records = [
        {"sequence": int(s), "head": int(h), "position": int(q), "key": int(k), "attention": float(maps[s, h, q, k])}
        for s, h, q, k in np.argwhere(np.broadcast_to(np.tri(length, dtype=bool), maps.shape))
    ]
    return Drawn(figure, columns_of(records), _attention_numbers(run))


def _attention_numbers(run: Run) -> dict[str, Any]:
    """Mean correlation between rows of a head (vertical bars), over heads and of the most striped head."""
    bars = run.attention["vertical_bars"]
    with np.errstate(invalid="ignore"):
        by_head = np.nanmean(bars[-1].reshape(len(bars[-1]), -1), axis=1)
    sizes = np.diff(np.sort(run.attention["attn_reps"][-1].mean(axis=(0, 1))[-1])[[0, -1]])
    return {"bars": float(by_head.mean()), "bars_best": float(by_head.max()), "contrast": float(sizes[0])}


# Figures 9 and 9b: the associative memory -----------------------------------------------------------------------------


def memory_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Figure 9: online accuracy in bins of 100 steps, rolling mean of 5, of memories with H heads."""
    runs = sorted(groups[0], key=heads_of)
    size = BLOCK // 2 if small else BLOCK
    drawn = online_figure("Figure 9. An associative memory over a switch", runs, size)
    measured = dict(drawn.measured)
    window = 4 if small else 10  # blocks after the begin of a phase
    for run in runs:
        phases = online_blocks(run, size)
        measured[f"end_{heads_of(run)}"] = float(phases[0][-1])
        measured[f"gain_{heads_of(run)}"] = float(phases[1][window] - phases[0][window])
    measured["end_by_heads"] = [measured[f"end_{heads_of(run)}"] for run in runs]
    measured["gain_by_heads"] = [measured[f"gain_{heads_of(run)}"] for run in runs]
    measured["highest"] = max(float(block.max()) for run in runs for block in online_blocks(run, size))
    return drawn._replace(measured=measured)


def retrieval_figure(groups: Sequence[Runs], small: bool) -> Drawn:
    """Figure 9b: top-1 accuracy of naming the sequence, with A and B frozen at the switch."""
    runs = sorted(groups[0], key=heads_of)
    drawn = online_figure("Figure 9b. Naming sequences, heads frozen at the switch", runs, BLOCK)
    measured = dict(drawn.measured)
    for run in runs:
        phases = online_blocks(run, BLOCK)
        measured[f"before_{heads_of(run)}"] = float(phases[0][-1])
        measured[f"after_{heads_of(run)}"] = float(phases[1][:2].mean())
        measured[f"loss_{heads_of(run)}"] = measured[f"before_{heads_of(run)}"] - measured[f"after_{heads_of(run)}"]
    measured["before_by_heads"] = [measured[f"before_{heads_of(run)}"] for run in runs]
    measured["highest"] = max(float(block.max()) for run in runs for block in online_blocks(run, BLOCK))
    return drawn._replace(measured=measured)


def online_blocks(run: Run, size: int) -> list[np.ndarray]:
    """Means of the training accuracy over so many steps, by phase; DataError unless every step is logged."""
    metrics = run.metrics
    if len(metrics["step"]) < 2 or (np.diff(metrics["step"]) != 1).any():
        raise DataError(f"{run.path}: the accuracy of every step is needed; the configuration needs train.log_every: 1")
    found = [metrics["train_accuracy"][part] for _, part in curves.phase_segments(metrics["phase"])]
    if min(map(len, found)) < size:
        raise DataError(f"{run.path}: a phase of fewer than {size} steps")
    return [curves.block_means(part, size) for part in found]


def online_figure(title: str, runs: Runs, size: int) -> Drawn:
    """Online accuracy against step, a line for each run, of which heads differ."""
    records, colors = [], dict(zip(map(heads_of, runs), style.bin_colors(len(runs))))
    figure, (panel,) = rows.panels(1, title, rows.common_settings(runs), width=6.4)
    limit = _online_ceiling(runs[0])
    for run in runs:
        starts = [0, *(entry["step"] for entry in run.switches)]
        for phase, (start, blocks) in enumerate(zip(starts, online_blocks(run, size))):
            step = start + size * (np.arange(len(blocks)) + 0.5)
            smooth = curves.rolling_mean(blocks, ROLLING)
            panel.plot(step, blocks, color=colors[heads_of(run)], linewidth=0.6, alpha=0.35)
            panel.plot(step, smooth, color=colors[heads_of(run)], linewidth=1.7)
            records += [{"run": run.path.name, "heads": heads_of(run), "phase": phase, "step": float(at),
                         "accuracy": float(value), "rolling_mean": float(mean)}
                        for at, value, mean in zip(step, blocks, smooth)]  # fmt: skip
        for at in starts[1:]:
            rows.switch_line(panel, at)
    rows.bayes_line(panel, limit)
    rows.chance_line(panel, curves.chance(runs[0])[1])
    rows.finish(panel, "step", "top-1 accuracy" if curves.names_sequences(runs[0].facts) else "training accuracy")
    rows.step_axis(panel)
    handles = [rows.handle(f"H = {heads}", color=color, linewidth=2.2) for heads, color in colors.items()]
    handles += [rows.handle("Bayes ceiling", color=style.INK, **style.DOTTED), rows.handle("chance", **rows.CHANCE)]
    rows.legend(figure, handles, f"bins of {size} steps,\nrolling mean of {ROLLING}")
    highest = max(record["accuracy"] for record in records)
    return Drawn(figure, columns_of(records), {"over_ceiling": highest - limit})


def _online_ceiling(run: Run) -> float:
    """The accuracy that the Bayes predictor has on draws; of a task of names, how often it names the sequence."""
    key = "retrieval_ceiling" if curves.names_sequences(run.facts) else "accuracy_ceiling"
    return float(run.theory.get(0, {}).get(key, math.nan))
