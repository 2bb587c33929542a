#!/usr/bin/env bash
# Sets up, builds, and runs the tests: scripts/test.sh [--all]     (--all: also the slow ones, and the readers under sanitizers)
set -euo pipefail
cd "$(dirname "$0")/.."
all=false
for argument in "$@"; do
  case "$argument" in
    --all) all=true ;;
    *) echo "usage: scripts/test.sh [--all]" >&2; exit 64 ;;
  esac
done
scripts/build.sh release
export OMP_WAIT_POLICY=passive   # several small processes share the cores
if $all; then
  if [ "$(id -u)" = 0 ]; then scripts/slurm_loopback.sh install; fi  # the tests with SLURM are skipped where it is missing
  if [ "$(id -u)" = 0 ] && ! command -v chromium >/dev/null; then  # the same for those of `mnemo report` in a browser
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null
  fi
  .venv/bin/python -m pip install --quiet --disable-pip-version-check 'jax>=0.7'  # the same for those of the benchmark's peer
  git ls-files -z '*.h' '*.cpp' '*.cuh' '*.cu' | xargs -0 .venv/bin/clang-format --dry-run -Werror
  .venv/bin/python -m ruff check scripts tests
  ctest --test-dir build/release --output-on-failure --no-tests=error
  scripts/build.sh asan
  ctest --test-dir build/asan --output-on-failure --no-tests=error
  .venv/bin/python -m pytest -q tests
else
  ctest --test-dir build/release --output-on-failure --no-tests=error -LE slow
  .venv/bin/python -m pytest -q -m 'not slow' tests
fi
