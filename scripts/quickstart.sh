#!/usr/bin/env bash
# From a fresh clone to a result: sets up, builds, trains configs/quickstart.yaml through a switch, draws it.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/build.sh release mnemo
run=cache/quickstart/quickstart
build/release/mnemo train configs/quickstart.yaml
build/release/mnemo plot "$run" >/dev/null
echo
here=$(printf %q "$PWD")  # the commands work in any folder
echo "figure:  $run/figure.png"
echo "numbers: $here/build/release/mnemo show $here/$run"
echo "change:  $here/build/release/mnemo train $here/configs/quickstart.yaml train.lr=3e-3 --cache $here/cache"
