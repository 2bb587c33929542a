#!/usr/bin/env python3
"""`mnemo import`: turn an old notebook record into a run directory."""

import sys

from mnemo.command import guarded
from mnemo.commands.import_record import main

if __name__ == "__main__":
    sys.exit(guarded(main))
