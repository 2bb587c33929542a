#!/usr/bin/env python3
"""`mnemo export --tensorboard`: runs as event files."""

import sys

from mnemo.command import guarded
from mnemo.commands.export_tensorboard import main

if __name__ == "__main__":
    sys.exit(guarded(main))
