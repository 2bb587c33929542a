#!/usr/bin/env bash
# Sets up what is missing and builds a preset: scripts/build.sh [release|debug|asan] [target...]
set -euo pipefail
cd "$(dirname "$0")/.."
preset=${1:-release}
shift || true
scripts/bootstrap.sh
jobs=$(nproc)
memory=$(awk '/MemAvailable/ {print int($2 / 1500000) + 1}' /proc/meminfo)  # a LibTorch file takes over 1 GB to compile
if ((memory < jobs)); then jobs=$memory; fi
cmake --preset "$preset" >/dev/null
cmake --build --preset "$preset" -j "$jobs" ${1:+--target "$@"}
