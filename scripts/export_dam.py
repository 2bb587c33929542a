#!/usr/bin/env python3
"""Write DAM runs as the torch archives that notebooks load; `mnemo export` calls it."""

import sys

from mnemo.command import guarded
from mnemo.commands.export_dam import main

if __name__ == "__main__":
    sys.exit(guarded(main))
