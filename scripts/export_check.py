#!/usr/bin/env python3
"""`mnemo export --check`: check exported records against what notebooks read."""

import sys

from mnemo.command import guarded
from mnemo.commands.export_check import main

if __name__ == "__main__":
    sys.exit(guarded(main))
