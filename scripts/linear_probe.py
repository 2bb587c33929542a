#!/usr/bin/env python3
"""Linear probes of the features of a run, layer by layer."""

import sys

from mnemo.command import guarded
from mnemo.commands.linear_probe import main

if __name__ == "__main__":
    sys.exit(guarded(main))
