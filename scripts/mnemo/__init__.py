"""Read, measure, compare and draw what the engine mnemo writes. Reading needs NumPy alone.

    import mnemo

    run = mnemo.runs.open("cache/quickstart/quickstart")
    run.metrics["train_loss"]                       # (N,) one value a log line
    run.sets["phase_0"]["accuracy"]                 # (T, S) evaluation x rank
    run.to_frame("phase_0")                         # long pandas table
    mnemo.runs.open("cache/sweep_lr").runs          # the runs of a sweep

Modules, each of which knows only those before it: errors, command, files (formats), runs, tables, curves (what they
mean), sweeps, members, comparison, bayes, probes, expectations, event_files (TensorBoard's), records (of notebooks),
kept, analysis, figures, report, engine (has it train), reproduce, commands.
"""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"  # CMakeLists.txt reads it here
__all__ = [
    "analysis", "bayes", "comparison", "curves", "engine", "errors", "event_files", "expectations", "figures", "files",
    "kept", "members", "probes", "records", "report", "reproduce", "runs", "sweeps", "tables",
]  # fmt: skip


def __getattr__(name: str) -> ModuleType:
    """Submodules, imported on first use."""
    if name in __all__:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
