#!/usr/bin/env python3
"""What ptxas says of every kernel: registers, bytes spilled and static shared memory a block.

    scripts/kernel_registers.py            compares with tests/simt/registers.txt
    scripts/kernel_registers.py --update   writes it

No GPU is needed, only nvcc ($NVCC, or on the path, or of /usr/local/cuda). Numbers depend on its version, so they are
compared under the version that wrote the table only; a spill is an error under any.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
TABLE = ROOT / "tests" / "simt" / "registers.txt"
ARCHITECTURES = ("sm_80", "sm_90")


class Kernel(NamedTuple):
    source: str
    name: str
    architecture: str
    registers: int
    spilled: int  # bytes, stores and loads
    shared: int  # bytes


def find_nvcc() -> str | None:
    """The compiler, or None where there is none."""
    return os.environ.get("NVCC") or shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def version_of(nvcc: str) -> str:
    """Such as `13.0.88`."""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"\bV([\d.]+)", text)[1]


def short_name(mangled: str) -> str:
    """`adam_kernel<float>`, without namespaces and arguments."""
    name = subprocess.run(["c++filt", mangled], capture_output=True, text=True, check=True).stdout.strip()
    name = name.replace("(anonymous namespace)::", "").replace("mnemo::", "").removeprefix("void ")
    return re.sub(r"\((int|bool|unsigned int)\)", "", name).split("(")[0]


def parse(source: str, text: str) -> list[Kernel]:
    """The kernels of a source in what `ptxas -v` wrote. What a kernel's functions spill counts as its own."""
    kernels, spilled = [], 0
    entry = architecture = None
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)' for '(\w+)'", line):
            entry, architecture, spilled = *found.groups(), 0
        elif found := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled += int(found[1]) + int(found[2])
            if entry is None and kernels:  # of a function, listed after its kernel
                kernels[-1] = kernels[-1]._replace(spilled=kernels[-1].spilled + spilled)
                spilled = 0
        elif (found := re.search(r"Used (\d+) registers", line)) and entry:
            shared = re.search(r"(\d+) bytes smem", line)
            kernels.append(
                Kernel(source, short_name(entry), architecture, int(found[1]), spilled, int(shared[1]) if shared else 0)
            )
            entry, spilled = None, 0
    return kernels


def compile_one(nvcc: str, source: Path, architecture: str) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-std=c++17", f"-I{ROOT}", f"-arch={architecture}", "-Xptxas=-v", "-cubin", source]
        done = subprocess.run([*command, "-o", Path(folder, "out")], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"nvcc does not compile {source}:\n{done.stderr}")
    return parse(str(source.relative_to(ROOT)), done.stdout + done.stderr)


def measure(nvcc: str) -> list[Kernel]:
    """Every kernel of the project for every architecture, sorted."""
    sources = [path for layer in ("core", "models", "experiments") for path in (ROOT / layer).rglob("*.cu")]
    jobs = [(nvcc, source, architecture) for source in sources for architecture in ARCHITECTURES]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        return sorted(kernel for kernels in pool.map(lambda job: compile_one(*job), jobs) for kernel in kernels)


def format_table(version: str, kernels: list[Kernel]) -> str:
    rows = [("# source", "kernel", "arch", "registers", "spilled", "shared"), *(tuple(map(str, k)) for k in kernels)]
    rows = [(source, name.replace(" ", ""), *rest) for source, name, *rest in rows]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    return "\n".join([f"# nvcc {version}; bytes; written by scripts/kernel_registers.py --update", *lines]) + "\n"


def version_of_table() -> str:
    return re.match(r"# nvcc ([\d.]+);", TABLE.read_text(encoding="utf-8"))[1]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true", help="write the table instead of comparing with it")
    update = parser.parse_args().update
    nvcc = find_nvcc()
    if nvcc is None:
        sys.exit("kernel_registers.py: no nvcc; set NVCC to its path")
    version, kernels = version_of(nvcc), measure(nvcc)
    table = format_table(version, kernels)
    print(table, end="")
    spills = [kernel for kernel in kernels if kernel.spilled]
    for kernel in spills:
        print(f"{kernel.name} spills {kernel.spilled} bytes on {kernel.architecture}", file=sys.stderr)
    if update:
        TABLE.write_text(table, encoding="utf-8")
    elif version != version_of_table():
        print(f"{TABLE.name} is of nvcc {version_of_table()}: not compared", file=sys.stderr)
    elif table != TABLE.read_text(encoding="utf-8"):
        print(f"{TABLE.name} differs: look why, then run with --update", file=sys.stderr)
        return 1
    return 1 if spills else 0


if __name__ == "__main__":
    sys.exit(main())
