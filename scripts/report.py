#!/usr/bin/env python3
"""`mnemo report`: one HTML file over runs."""

import sys

from mnemo.command import guarded
from mnemo.commands.report import main

if __name__ == "__main__":
    sys.exit(guarded(main))
