"""Fixtures of the script tests. Their helpers live in synthetic_run.py, which tests import by name."""

from synthetic_run import make_run, run_dir

__all__ = ["make_run", "run_dir"]
