#!/usr/bin/env bash
# What only a GPU can show, in stages of at most ten minutes that need nothing outside the checkout and no network:
#   scripts/gpu_check.sh [--out DIR] [build] [suite] [sanitize] [bench]        default: all four; what they say goes to DIR (build/gpu_check)
#   scripts/gpu_check.sh packages      beforehand, where the Debian packages of bootstrap.sh are: the parts that a build needs, to build/gpu_packages
# build: mnemo and its tests with CUDA, from PyTorch's libraries, nvcc, CMake and ninja. suite: the tests on the GPU, and equal bytes of two runs.
# sanitize: compute-sanitizer over the kernels' tests. bench: beside PyTorch and JAX; what time did not suffice for is measured by the next call.
# Ends with a table, DIR/gpu_check.json and bench's DIR/<GPU>_<precision>.json (to be kept in tests/bench/results). Status: 0, 1 where something
# failed, 78 without a GPU. What `build` made in a like checkout elsewhere will do: build/gpu/mnemo, build/gpu/tests/*_test and kernel_tests there.
set -uo pipefail
cd "$(dirname "$0")/.." || exit
MINUTES=9   # of a stage, and one to end in
PACKAGES=(libyaml-cpp-dev libspdlog-dev libfmt-dev libxxhash-dev librandom123-dev nlohmann-json3-dev libcli11-dev libgtest-dev libgmock-dev)
BENCHES=(   # the most wanted first
  "one_layer"
  "one_layer --config D C --replicas 64"
  "dam --config S"
  "dam --config U W --together 1"
  "one_layer --precision tf32 --config D B E"
  "one_layer --precision tf32 --config D --replicas 64"
  "evaluate"
  "one_layer --replicas 8 64"
  "dam --config V --together 1 --rounds 3"
  "one_layer --precision tf32 --replicas 1 8 64"
  "evaluate --precision tf32")

out=build/gpu_check
stages=()
while (($#)); do
  case "$1" in
    --out) out=${2:?--out DIR}; shift ;;
    packages | build | suite | sanitize | bench) stages+=("$1") ;;
    *) sed -n '2,8s/^# \?//p' "$0" >&2; exit 64 ;;
  esac
  shift
done
((${#stages[@]})) || stages=(build suite sanitize bench)
build=build/gpu
packages=build/gpu_packages/usr
rows=$out/gpu_check.rows
mkdir -p "$out"
touch "$rows"
PATH=$PATH:/usr/local/cuda/bin:/usr/local/cuda/compute-sanitizer
python=python3
if [ -x .venv/bin/python ]; then python=.venv/bin/python; fi
torch=$("$python" -c 'import importlib.util as u; found = u.find_spec("torch"); print(found.submodule_search_locations[0] if found else "")')
export LD_LIBRARY_PATH=$torch/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}

# record STAGE WHAT RESULT SECONDS: a row of the table, in place of one of an earlier call
record() {
  grep -v "^$1	$2	" "$rows" >"$rows.tmp"
  printf '%s\t%s\t%s\t%s\n' "$@" >>"$rows.tmp"
  mv "$rows.tmp" "$rows"
}

# step STAGE WHAT SECONDS COMMAND...: runs it into the stage's log, at most so long, and records how it ended
step() {
  local stage=$1 what=$2 limit=$3 begin=$SECONDS status result
  shift 3
  echo "== $what: $*" >>"$out/$stage.log"
  timeout --kill-after=10 "$limit" "$@" >>"$out/$stage.log" 2>&1
  status=$?
  case $status in
    0) result=passed ;;
    124 | 137) result="not done in $limit s" ;;
    *) result="failed with status $status" ;;
  esac
  record "$stage" "$what" "$result" $((SECONDS - begin))
  echo "$stage: $what: $result"
  ((status == 0)) || tail -n 15 "$out/$stage.log"
  return "$status"
}

# Needs a GPU, and what `build` makes
needs_gpu() {
  local reason
  if ! reason=$("$python" scripts/bench_machine.py); then
    echo "$1: no GPU: $reason" >&2
    record "$1" GPU "none: $reason" 0
    exit_status=78
    return 1
  fi
  echo "$1: $reason"
  record "$1" GPU "$reason" 0
  [ -x "$build/mnemo" ] && return
  echo "$1: no $build/mnemo: run scripts/gpu_check.sh build first" >&2
  record "$1" "$build/mnemo" missing 0
  return 1
}

stage_packages() {
  rm -rf build/gpu_packages
  mkdir -p build/gpu_packages
  dpkg -L "${PACKAGES[@]}" | grep -E '^/usr/(include/.*\.(h|hpp|ipp|cc)|lib/.*\.(a|cmake))$' | sort -u >"$out/files" || return 1
  tar -C / -c -h --no-recursion -T <(sed 's,^/,,' "$out/files") | tar -C build/gpu_packages -x || return 1
  rm "$out/files"
  echo "packages: $(du -sh build/gpu_packages | cut -f1) in build/gpu_packages"
}

stage_build() {
  local end=$((SECONDS + 60 * MINUTES)) jobs memory targets
  if [ ! "$torch" ]; then
    echo "build: $python has no PyTorch" >&2
    record build PyTorch missing 0
    return 1
  fi
  jobs=$(nproc)
  memory=$(awk '/MemAvailable/ {print int($2 / 1500000) + 1}' /proc/meminfo)   # a LibTorch file takes over 1 GB to compile
  if ((memory < jobs)); then jobs=$memory; fi
  step build configure 120 cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DMNEMO_CUDA=ON "-DLIBTORCH=$torch" \
    "-DCMAKE_PREFIX_PATH=$PWD/$packages" || return 1
  # all but the emulator's, and those that stand in for a GPU
  mapfile -t targets < <(ctest --test-dir "$build" -N -LE 'simt|far|slow' | sed -n 's/^ *Test *#[0-9]*: //p')
  if cmake --build "$build" --target help | grep -q '^kernel_tests:'; then targets+=(kernel_tests); fi
  step build "mnemo, ${#targets[@]} test programs" $((end - SECONDS)) cmake --build "$build" -j "$jobs" --target mnemo "${targets[@]}"
}

stage_suite() {
  local end=$((SECONDS + 60 * MINUTES)) test cache=$out/runs kernels failed=0
  rm -rf "$cache"
  kernels=$(find "$build" -name kernel_tests -type f)
  for test in "$build"/tests/*_test; do   # they compute where MNEMO_TEST_DEVICE says, or on the CPU alone
    step suite "$(basename "$test")" $((end - SECONDS)) env MNEMO_TEST_DEVICE=cuda:0 "$test" --gtest_brief=1 || failed=1
  done
  if [ "$kernels" ]; then step suite kernel_tests $((end - SECONDS)) "$kernels" --gtest_brief=1 || failed=1; fi
  for run in one two; do
    step suite "run $run of quickstart.yaml" $((end - SECONDS)) "$build/mnemo" train configs/quickstart.yaml device=cuda:0 \
      --cache "$cache/$run" --progress none || failed=1
  done
  step suite "equal bytes of the two" 60 bash -c 'cd "$1" && cmp one/quickstart/*/metrics.jsonl two/quickstart/*/metrics.jsonl &&
    cmp one/quickstart/*/final.safetensors two/quickstart/*/final.safetensors' _ "$cache" || failed=1
  rm -rf "$cache"
  return "$failed"
}

stage_sanitize() {
  local kernels tool begin failed=0 log=$out/sanitize.log
  kernels=$(find "$build" -name kernel_tests -type f)
  if [ ! "$kernels" ]; then
    echo "sanitize: no kernel_tests in $build"
    record sanitize kernel_tests missing 0
    return 1
  fi
  for tool in memcheck racecheck; do
    step sanitize "$tool" $((30 * MINUTES)) compute-sanitizer --tool "$tool" --error-exitcode 9 "$kernels" --gtest_brief=1 && continue
    begin=$(grep -n '^== ' "$log" | tail -n 1 | cut -d: -f1)
    if tail -n +"$begin" "$log" | grep -qE 'Device not supported|No such file|not found|Operation not permitted'; then
      record sanitize "$tool" "refused here: $(tail -n +$((begin + 1)) "$log" | grep -m 1 -E 'not supported|No such|not found|not permitted')" 0
    else
      failed=1
    fi
  done
  return "$failed"
}

stage_bench() {
  local end=$((SECONDS + 60 * MINUTES)) options status failed=0 files
  for options in "${BENCHES[@]}"; do
    if ((SECONDS >= end)); then echo "bench: no time left; the next call goes on"; break; fi
    # shellcheck disable=SC2086
    step bench "$options" $((end - SECONDS + 30)) "$python" scripts/bench_peers.py $options --device cuda --mnemo "$build/mnemo" --out "$out/" \
      --missing --minutes "$(awk "BEGIN {print ($end - $SECONDS - 90) / 60}")"
    status=$?
    case $status in
      0) ;;
      75 | 124) record bench "$options" "not all in the time that was left: the next call goes on" 0 ;;
      65) record bench "$options" "measured; some were refused" 0 ;;
      *) failed=1 ;;
    esac
  done
  mapfile -t files < <(find "$out" -name '*_fp32.json' -o -name '*_tf32.json' | sort)
  if ((${#files[@]})); then "$python" scripts/bench_peers.py --show "${files[@]}"; fi
  return "$failed"
}

exit_status=0
for stage in "${stages[@]}"; do
  : >"$out/$stage.log"
  case "$stage" in suite | sanitize | bench) needs_gpu "$stage" || { ((exit_status)) || exit_status=1; continue; } ;; esac
  "stage_$stage" || exit_status=1
done
printf '\n'
awk -F '\t' '{printf "%-9s %-52s %5s s  %s\n", $1, $2, $4, $3}' "$rows"
"$python" - "$rows" "$out/gpu_check.json" <<'PYTHON'
import json, sys
names = ("stage", "what", "result", "seconds")
rows = [dict(zip(names, line.rstrip("\n").split("\t"))) for line in open(sys.argv[1])]
json.dump([{**row, "seconds": int(row["seconds"])} for row in rows], open(sys.argv[2], "w"), indent=1)
PYTHON
exit "$exit_status"
