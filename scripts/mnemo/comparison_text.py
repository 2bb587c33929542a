"""How `mnemo compare` prints its tables: aligned text, Markdown, CSV, JSON. Computes nothing."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

from mnemo import curves

TITLES = {
    "bins": "accuracy and loss: right after the switch that began the phase (start), before the next one, at the end",
    "switches": "drop at the switch, and the share of it that came back by the end of the phase",
    "swaps": "swap tests: accuracy before the switch, at the test without the swap and with it",
    "memory": "stored bits: sum over sequences of (ln 2 - loss) / ln 2 over all predictions",
    "distances": "distance: mean absolute difference of accuracy over log presentations, where both curves are",
    "ranking": "runs by their mean distance from the first, over rank bins and phases",
}


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


def _cells(table: str, row: dict[str, Any]) -> dict[str, str]:
    """One line of a table as it is printed: {heading: text}."""
    ranks = {}
    if "first_rank" in row:
        label = curves.bin_label((row["first_rank"], row["last_rank"] + 1)).split(" ")[1]
        whole = row["ranks"] == row["last_rank"] - row["first_rank"] + 1
        ranks = {"ranks": label if whole else f"{label} ({row['ranks']})"}
    three = {key: _number(value, 3) for key, value in row.items() if isinstance(value, float)}
    if table == "bins":
        accuracy = {f"acc. {m}" if m == "start" else m: three[f"accuracy_{m}"] for m in ("start", "before", "end")}
        loss = {f"loss {m}" if m == "start" else f"{m} ": three[f"loss_{m}"] for m in ("start", "before", "end")}
        return {**ranks, "phase": str(row["phase"]), "run": row["run"], **accuracy, "ceiling": three["ceiling"], **loss,
                "floor": three["floor"], "presentations": _presentations_text(row),
                "speed-up": _speedup_text(row)}  # fmt: skip
    if table == "switches":
        return {**ranks, "switch": str(row["switch"]), "run": row["run"], **{k: three[k] for k in ("drop", "recovery")}}
    if table == "swaps":
        keys = ("before", "unswapped", "swapped", "recovery")
        names = {"run": row["run"], "event": row["event"], "set": row["set"]}
        return {**names, **ranks, "step": f"{row['step']:,}", **{key: three[key] for key in keys}}
    if table == "memory":
        keys = {"before": "bits_before", "end": "bits_end", "Bayes": "bits_bayes", "parameters": "parameters"}
        stride = row["rank_stride"]
        sampled = "all ranks" if stride == 1 else f"1 rank in {stride}" if stride else "some ranks"
        return {"run": row["run"], "phase": str(row["phase"]), **{k: _number(row[v], 0) for k, v in keys.items()},
                "before / parameter": _number(row["bits_per_parameter"], 4),
                "before / Bayes": three["share_of_bayes"], "from": sampled}  # fmt: skip
    if table == "distances":
        names = {"run": row["run"], "other": row["other"]}
        return {
            **names,
            "phase": str(row["phase"]),
            **ranks,
            "distance": three["distance"],
            "decades": three["decades"],
        }
    fixed = {"run": row["run"], "distance": _number(row["distance"], 4), "decades": _number(row["decades"], 2)}
    others = {key: str(value) for key, value in row.items() if key not in fixed}
    return {**fixed, **others}


def _lines(cells: Sequence[dict[str, str]], markdown: bool) -> Iterator[str]:
    """Aligned columns, words left and numbers right; in plain text what repeats above is left out."""
    headings = list(cells[0])
    width = {name: max(len(name), *(len(row[name]) for row in cells)) for name in headings}
    words = {name for name in headings if name in ("ranks", "run", "other", "event", "set", "from")}
    align = {name: "<" if name in words else ">" for name in headings}
    start, between, end = ("| ", " | ", " |") if markdown else ("", "  ", "")
    yield (start + between.join(f"{name:{align[name]}{width[name]}}" for name in headings) + end).rstrip()
    if markdown:
        yield "|" + "|".join("---" if name in words else "--:" for name in headings) + "|"
    above: dict[str, str] = {}
    for row in cells:
        shown, same = {}, not markdown
        for name in headings:
            same = (
                same
                and name in ("run", "other", "ranks", "phase", "switch", "event", "set")
                and above.get(name) == row[name]
            )
            shown[name] = "" if same else row[name]
        above = row
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
            lines += _lines([_cells(name, row) for row in result[name]], markdown)
    return "\n".join([*lines, "", *(f"{'- ' if markdown else ''}{note}" for note in result["notes"])]) + "\n"


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
