"""A report: one HTML file over runs that opens without a network, with all that it needs inside.

`contents` says what is in it; page.html, page.css and page.js how it looks. Needs plotly, whose script is embedded.
"""

from __future__ import annotations

import base64
import html
import json
import platform
import zlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

import mnemo
from mnemo.errors import not_installed
from mnemo.figures.style import CATEGORIES
from mnemo.files import PathLike, write_atomically
from mnemo.report.contents import POINTS, report_contents


def plotly_script() -> tuple[str, str]:
    """plotly.js and the version of the package that it comes with."""
    try:
        import plotly
        from plotly.offline import get_plotlyjs
    except ImportError:
        raise not_installed("plotly", "a report needs plotly, which") from None
    return get_plotlyjs(), plotly.__version__


def byte_planes(numbers: np.ndarray) -> bytes:
    """All first bytes, then all second ones, ...: they are packed a quarter smaller than numbers one by one."""
    return numbers.astype("<f4").view(np.uint8).reshape(-1, 4).T.tobytes()


def packed(data: bytes) -> str:
    """Bytes as they stand in the page: deflated, base64."""
    return base64.b64encode(zlib.compress(data, 6)).decode("ascii")


def page(tree: dict[str, Any], numbers: np.ndarray, title: str, command: str) -> str:
    """The page of what `report_contents` gives; equal arguments give equal pages."""
    plotly, version = plotly_script()
    versions = {"mnemo": mnemo.__version__, "Python": platform.python_version(), "NumPy": np.__version__,
                "plotly": version}  # fmt: skip
    tree = {**tree, "title": title, "command": command, "versions": versions, "palette": list(CATEGORIES)}
    text = json.dumps(tree, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    parts = {name: resources.files(__name__).joinpath(f"page.{name}").read_text("utf-8") for name in ("css", "js")}
    parts.update(
        title=html.escape(title), plotly=plotly, tree=packed(text.encode()), numbers=packed(byte_planes(numbers))
    )
    pieces = resources.files(__name__).joinpath("page.html").read_text("utf-8").split("@@")
    return "".join(parts[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def write(
    output: Path,
    arguments: Sequence[PathLike],
    title: str | None = None,
    command: str = "",
    edges: Sequence[int] | None = None,
    points: int = POINTS,
) -> dict[str, Any]:
    """Writes a report over runs, folders of runs, or folders of those, in one move; returns what is in it.

    Raises
    ------
    DataError
        Where there is not a single run to show.
    CannotCreate
        Without plotly.
    """
    plotly_script()
    tree, numbers = report_contents(arguments, edges, points)
    names = [Path(argument).resolve().name for argument in arguments]
    title = title or ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    text = page(tree, numbers, title.encode("utf-8", "replace").decode(), command.encode("utf-8", "replace").decode())
    write_atomically(output, lambda file: file.write(text.encode("utf-8")))
    return tree
