#!/usr/bin/env python3
"""Figures of the experiments in config.py, or of any runs: loss and accuracy against presentations."""

import sys

from mnemo.command import guarded
from mnemo.commands.analysis import main

if __name__ == "__main__":
    sys.exit(guarded(main))
