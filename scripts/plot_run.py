#!/usr/bin/env python3
"""`mnemo plot`: draw a run or a sweep."""

import sys

from mnemo.command import guarded
from mnemo.commands.plot import main

if __name__ == "__main__":
    sys.exit(guarded(main))
