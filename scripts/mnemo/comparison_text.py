"""How `mnemo compare` prints its tables: aligned text, Markdown, CSV, JSON. Computes nothing."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mnemo import curves, sweeps

TITLES = {
    "bins": "accuracy and loss: right after the switch that began the phase (start), before the next one, at the end",
    "switches": "drop at the switch, and the share of it that came back by the end of the phase",
    "half_lives": "half-life: steps from the switch until half of what was known of the old sequences is lost",
    "swaps": "swap tests: accuracy before the switch, at the test without the swap and with it",
    "memory": "stored bits: sum over sequences of (ln 2 - loss) / ln 2 over all predictions",
    "distances": "distance: mean absolute difference of accuracy over log presentations, where both curves are",
    "ranking": "runs by their mean distance from the first, over rank bins and phases",
}
ASKED_FOR = ("distances",)  # tables that are made where they are named alone
SEEDS = "0.937(12): mean over seeds and their standard deviation in units of the last digit; half-lives: median [range]"
HALF_LIVES = (
    "known: accuracy above chance, or loss below it, right before the switch; learned, re-learned: steps until the "
    "first sequences, and the new ones, are half-way to what the first phase came to; <= x: by the first evaluation; "
    "-: never, or the accuracy was within two standard errors of a guess"
)
WORDS = ("ranks", "run", "other", "event", "set", "from", "of")  # columns of words

Cells = dict  # {heading: text}: a line of a table as it is printed


def _number(value: Any, digits: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:,.{digits}f}"  # inf and -inf as they are


def _presentations_text(row: dict[str, Any]) -> str:
    """`1,020 to 1,234 [1,100, 1,500]`: between two evaluations; `> 2,000` where most seeds never got there."""
    if math.isnan(row["presentations"]):
        return "-"
    if math.isinf(row["presentations"]):
        return f"> {row['seen']:,.4g}" if row["seen"] < 100 else f"> {row['seen']:,.0f}"
    digits = 0 if row["presentations"] >= 100 else 1
    after = f"{_number(row['presentations_after'], digits)} to " if row["presentations"] else ""
    return after + _number(row["presentations"], digits) + _interval(row, "presentations", digits)


def _interval(row: dict[str, Any], key: str, digits: int) -> str:
    """` [low, high]`; nothing where the spread is not known."""
    if math.isnan(row[f"{key}_low"]):
        return ""
    low, high = (_number(row[f"{key}_{end}"], digits) for end in ("low", "high"))
    return f" [{low}, {high}]"


def _speedup_text(row: dict[str, Any]) -> str:
    if math.isnan(row["speedup"]):
        return "-"
    if math.isinf(row["speedup"]) or row["speedup"] == 0.0:  # the first phase never got there, or this one did not
        if not 0.0 < row["speedup_bound"] < math.inf:  # one phase was there before its first presentation
            return "-"
        return f"{'<' if row['speedup'] == 0.0 else '>'} {_number(row['speedup_bound'], 2)}x"
    return f"{_number(row['speedup'], 2)}x" + _interval(row, "speedup", 2)


def _half_time_text(row: dict[str, Any], key: str) -> str:
    """`37.2 [30.0, 41.5]`; `<= 200` where it was before the first evaluation, `0` at once; `-` where it never was."""
    after, at = row[f"{key}_after"], row[key]
    if not math.isfinite(at):
        return "-"
    digits = 1 if 0 < at < 100 else 0
    interval = _interval(row, key, digits) if row[f"{key}_low"] < row[f"{key}_high"] else ""
    return ("<= " if after < at else "") + _number(at, digits) + interval


def _mean_text(row: dict[str, Any], key: str, digits: int = 3) -> str:
    """`0.937`; over seeds `0.937(12)`: their standard deviation in units of the last digit."""
    spread = row.get(f"{key}_spread", math.nan)
    text = _number(row[key], digits)
    return text if math.isnan(spread) or text == "-" else f"{text}({spread * 10**digits:.0f})"


def _ranks_text(row: dict[str, Any]) -> str:
    """`0-9`; `0-9 (1)` where one of these was scored."""
    label = curves.bin_label((row["first_rank"], row["last_rank"] + 1)).split(" ")[1]
    return label if row["ranks"] == row["last_rank"] - row["first_rank"] + 1 else f"{label} ({row['ranks']})"


def _bins_cells(row: dict[str, Any]) -> Cells:
    accuracy = {"acc. start": "accuracy_start", "before": "accuracy_before", "end": "accuracy_end"}
    loss = {"loss start": "loss_start", "before ": "loss_before", "end ": "loss_end"}
    return {
        **{heading: _mean_text(row, key) for heading, key in accuracy.items()}, "ceiling": _number(row["ceiling"], 3),
        **{heading: _mean_text(row, key) for heading, key in loss.items()}, "floor": _number(row["floor"], 3),
        "presentations": _presentations_text(row), "speed-up": _speedup_text(row),
    }  # fmt: skip


def _half_lives_cells(row: dict[str, Any]) -> Cells:
    headings = {"half-life": "half_life", "learned": "learned", "re-learned": "relearned",
                "in presentations": "learned_presentations", "re-learned in": "relearned_presentations"}  # fmt: skip
    times = {heading: _half_time_text(row, key) for heading, key in headings.items()}
    return {"known": _mean_text(row, "known"), **times}


def _memory_cells(row: dict[str, Any]) -> Cells:
    stride = row["rank_stride"]
    headings = {"before": "bits_before", "end": "bits_end", "Bayes": "bits_bayes"}
    return {
        **{heading: _mean_text(row, key, 0) for heading, key in headings.items()},
        "parameters": _number(row["parameters"], 0), "before / parameter": _number(row["bits_per_parameter"], 4),
        "before / Bayes": _number(row["share_of_bayes"], 3),
        "from": "all ranks" if stride == 1 else f"1 rank in {stride}" if stride else "some ranks",
    }  # fmt: skip


# Of each table: the columns that tell rows apart, in order ("run" with the settings that differ), and the others.
LAYOUT: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Cells]]] = {
    "bins": (("ranks", "phase", "run"), _bins_cells),
    "switches": (("ranks", "switch", "run"), lambda row: {key: _mean_text(row, key) for key in ("drop", "recovery")}),
    "half_lives": (("ranks", "switch", "run", "of"), _half_lives_cells),
    "swaps": (("run", "event", "set", "ranks"), lambda row: {
        "step": f"{row['step']:,}",
        **{key: _mean_text(row, key) for key in ("before", "unswapped", "swapped", "recovery")},
    }),
    "memory": (("run", "phase"), _memory_cells),
    "distances": (("run", "other", "phase", "ranks"), lambda row: {
        key: _number(row[key], 3) for key in ("distance", "decades")
    }),
    "ranking": (("run",), lambda row: {
        "distance": _number(row["distance"], 4), "decades": _number(row["decades"], 2), "curves": str(row["curves"])
    }),
}  # fmt: skip


def _rows(table: str, rows: Sequence[dict[str, Any]], varying: Sequence[str]) -> Iterator[tuple[Cells, Cells]]:
    """Of each row of a table the cells that tell it from others, and its numbers."""
    keys, numbers = LAYOUT[table]
    short = sweeps.short_keys(varying)
    taken = {*keys, *numbers(rows[0])}
    short = {name: name if text in taken else text for name, text in short.items()}
    for row in rows:
        cells: Cells = {}
        for key in keys:
            cells[key] = _ranks_text(row) if key == "ranks" else str(row[key])
            before, heading = ("other.", "other ") if key == "other" else ("", "")
            if key in ("run", "other"):
                cells.update({heading + short[name]: setting_text(row[before + name]) for name in varying})
        yield cells, numbers(row)


def setting_text(value: Any) -> str:
    """What a setting is set to, as configurations write it; `-` for none."""
    return "-" if value in (None, "") else value if isinstance(value, str) else json.dumps(value)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True


def _lines(rows: Sequence[tuple[Cells, Cells]], markdown: bool) -> Iterator[str]:
    """Aligned columns, words left and numbers right; in plain text what repeats above is left out."""
    whole = [{**keys, **numbers} for keys, numbers in rows]
    headings = list(whole[0])
    width = {name: max(len(name), *(len(row[name]) for row in whole)) for name in headings}
    words = {name for name in rows[0][0] if not all(_is_number(keys[name]) for keys, _ in rows)}
    words.update(name for name in headings if name in WORDS)
    align = {name: "<" if name in words else ">" for name in headings}
    start, between, end = ("| ", " | ", " |") if markdown else ("", "  ", "")
    yield (start + between.join(f"{name:{align[name]}{width[name]}}" for name in headings) + end).rstrip()
    if markdown:
        yield "|" + "|".join("---" if name in words else "--:" for name in headings) + "|"
    above: Cells = {}
    for keys, numbers in rows:
        shown, same = {**keys, **numbers}, not markdown
        for name, text in keys.items():
            same = same and above.get(name) == text
            shown[name] = "" if same else text
        above = keys
        yield (start + between.join(f"{shown[name]:{align[name]}{width[name]}}" for name in headings) + end).rstrip()


def as_text(result: dict[str, Any], tables: Sequence[str], markdown: bool) -> str:
    lines = []
    for member in result["members"]:
        settings = f"   {member['settings']}" if "settings" in member else ""
        lines.append(f"{'- ' if markdown else ''}{member['name']}{settings}")
        if len(member["runs"]) > 1:
            lines.append(f"{'  - ' if markdown else '    '}seeds: {', '.join(member['runs'])}")
    for name in tables:
        if result[name]:
            lines += ["", f"{'## ' if markdown else ''}{TITLES[name]}", *([""] if markdown else [])]
            lines += _lines(list(_rows(name, result[name], result["varying"])), markdown)
    notes = [*result["notes"], *([HALF_LIVES] if "half_lives" in tables and result["half_lives"] else [])]
    notes += [SEEDS] if any(len(member["runs"]) > 1 for member in result["members"]) else []
    return "\n".join([*lines, "", *(f"{'- ' if markdown else ''}{note}" for note in notes)]) + "\n"


def _plain(value: Any) -> Any:
    """JSON has neither inf nor NaN: both become null; a censored row has its `seen` beside it."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write(result: dict[str, Any], form: str, tables: Sequence[str], file: Any) -> None:
    """Prints the comparison as `table`, `md`, `json` or `csv` (one table)."""
    if form == "json":
        kept = {key: value for key, value in result.items() if key not in TITLES or key in tables}
        json.dump(_plain(kept), file, indent=1)
        file.write("\n")
    elif form == "csv":
        rows = result[tables[0]]
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["run"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        file.write(as_text(result, tables, markdown=form == "md"))
