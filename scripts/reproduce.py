#!/usr/bin/env python3
"""`mnemo reproduce`: figures from nothing, measured beside expected."""

import sys

from mnemo.command import guarded
from mnemo.commands.reproduce import main

if __name__ == "__main__":
    sys.exit(guarded(main))
