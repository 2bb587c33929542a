#!/usr/bin/env bash
# Runs every line of the README's ```sh blocks, in order, in a shell that stops at the first that fails.
set -euo pipefail
cd "$(dirname "$0")/.."
commands=$(awk '/^```sh$/ {inside = 1; next} /^```/ {inside = 0} inside' README.md)
printf '%s\n' "$commands" | grep -q . || { echo "README.md shows no commands" >&2; exit 1; }
bash -euxc "$commands"
