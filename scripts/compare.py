#!/usr/bin/env python3
"""`mnemo compare`: lay runs side by side."""

import sys

from mnemo.command import guarded
from mnemo.commands.compare import main

if __name__ == "__main__":
    sys.exit(guarded(main))
