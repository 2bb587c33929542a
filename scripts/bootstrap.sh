#!/usr/bin/env bash
# Installs what mnemo is built from: Debian packages (when root), and .venv with LibTorch and the scripts' Python packages.
# Idempotent: a second call looks, finds everything, and ends in a second. Interrupted, it goes on where it stopped.
set -euo pipefail
cd "$(dirname "$0")/.."

PACKAGES=(g++ cmake ninja-build git python3 python3-venv ccache libyaml-cpp-dev libspdlog-dev libfmt-dev libxxhash-dev
  librandom123-dev nlohmann-json3-dev libcli11-dev libgtest-dev libgmock-dev)
PYTHON_PACKAGES=(torch==2.11.0 'numpy>=1.26' 'matplotlib>=3.8' 'pandas>=2.0' 'seaborn>=0.13' 'plotly>=6' 'scikit-learn>=1.4'
  'tensorboard>=2.16' 'setuptools>=70.1,<82' 'pytest>=8' 'ruff>=0.6' clang-format==14.0.6)

say() { printf 'bootstrap: %s\n' "$*"; }

# ---- Debian packages
missing=()
if command -v dpkg-query >/dev/null; then
  for package in "${PACKAGES[@]}"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
  done
  if ((${#missing[@]})); then
    if [ "$(id -u)" = 0 ]; then
      say "installing ${missing[*]}"
      apt-get update -qq
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
      say "these Debian packages are missing, and installing them needs root:"
      say "  sudo apt-get install ${missing[*]}"
      say "without root or Debian: conda env create -f environment.yml"
      exit 1
    fi
  fi
else
  say "no dpkg here: taking the compiler and the libraries from the environment (environment.yml lists them)"
fi

# ---- Python environment with LibTorch. The stamp is written last, so that an interrupted installation is taken up again.
python=.venv/bin/python
stamp=.venv/.mnemo-packages
wanted=$(printf '%s\n' "${PYTHON_PACKAGES[@]}")
if [ ! -x "$python" ]; then
  rm -rf .venv
  python3 -m venv .venv
fi
if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
  say "installing Python packages into .venv (LibTorch: about 5 GB on disk)"
  for attempt in 1 2 3; do
    "$python" -m pip install --quiet --disable-pip-version-check --prefer-binary "${PYTHON_PACKAGES[@]}" && break
    [ "$attempt" = 3 ] && { say "pip failed three times; run this script again to go on"; exit 1; }
    say "pip failed, trying again"
    sleep 5
  done
  printf '%s\n' "$wanted" >"$stamp"
fi

# ---- summary
say "compiler  $(g++ --version | head -n 1)"
say "CMake     $(cmake --version | head -n 1 | cut -d' ' -f3)"
say "CUDA      $(nvcc --version 2>/dev/null | sed -n 's/.*release \([0-9.]*\).*/nvcc \1/p' | grep . || echo 'no nvcc: a CPU build')"
say "LibTorch  $(sed -n "s/^__version__ = '\(.*\)'/\1/p" .venv/lib/python3*/site-packages/torch/version.py)"
say "ready: cmake --preset release && cmake --build --preset release"
