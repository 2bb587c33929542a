#!/usr/bin/env python3
"""Breaks kernels one way at a time and says which build of their emulator tests notices.

    scripts/kernel_mutants.py core/device_cells.cu          the mutants of one source
    scripts/kernel_mutants.py --each 1                      of all, one of each kind a function (hours, not minutes)

Kinds: a barrier or a wait removed (every one), an index one too high, a guard dropped, a round too many. Works on a
copy of the tree. About 15 s a mutant on one core. Exit status 1 if one went unnoticed; EQUIVALENT lists those that no
test can notice, and why.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BUILDS = ("plain", "asan", "tsan")
SECONDS = 120  # a test that runs longer hangs

# (what is done, the line it is done to): the reason
EQUIVALENT = {
    ("one round more", "for (int base = 0; base < size; base += threads()) {"): "a round with nothing in it",
    ("one round more", "for (int base = 0; base < size; base += 32) {"): "a round with nothing in it",
    ("one round more", "for (int base = 0; base < count; base += 32) {"): "a round with nothing in it",
    ("one round more", "for (unsigned by = 1; by < 32; by *= 2) {"): "no lane is 32 above another",
    (
        "removed __syncthreads",
        "__syncthreads();  // nobody reads the sums of an earlier call any more",
    ): "one call a kernel",
    ("index + 1", "[[maybe_unused]] float addend[Own::kColumns];"): "an array with room to spare",
    ("one round more", "for (int w = 0; w < words; ++w) {"): "different rows differ before",
    ("dropped guard", "if (tile.rows <= 0) return;"): "it only saves work",
    ("dropped guard", "if (!s.active_R[replica] || !s.finite_R[replica]) return;"): "it only saves work",
}


class Mutant(NamedTuple):
    source: str
    function: str
    line: int  # from 1
    what: str
    before: str
    after: str


def functions(lines: list[str]) -> Iterator[tuple[str, int, int]]:
    """Name and lines [begin, end) of the body of every device function."""
    number = 0
    while number < len(lines):
        if not re.search(r"\b__(device|global)__\b", lines[number]) or lines[number].lstrip().startswith("//"):
            number += 1
            continue
        begin, head = number, ""
        while "{" not in head and ";" not in head:
            head += lines[number] + " "
            number += 1
        if "{" not in head:
            continue
        depth = head.count("{") - head.count("}")
        while depth > 0:
            depth += lines[number].count("{") - lines[number].count("}")
            number += 1
        name = re.findall(r"(\w+)\(", re.sub(r"__launch_bounds__\(.*?\)", "", head))
        yield (name or ["?"])[0], begin, number


def changes(line: str) -> Iterator[tuple[str, str]]:
    """What can be done to a line: (kind, the line afterwards)."""
    code = line.split("//")[0]
    rest = line[len(code) :]
    if found := re.search(r"\b(__sync\w+|copy_wait<\d>)\(\);", code):
        yield f"removed {found[1]}", code.replace(found[0], ";", 1) + rest
    if not re.search(r"MNEMO_\w*SHARED|^\s*(const )?(int|unsigned|float|double|bool|Real|std::u?int\d+_t) \w+\[", code):
        for found in re.finditer(r"(?<=[\w)])\[([^\[\]{}&=]+)\]", code):
            yield "index + 1", f"{code[: found.end() - 1]} + 1{code[found.end() - 1 :]}{rest}"
    for found in re.finditer(r"\bif \([^;{}]*\) (return|continue)\b[^;]*;", code):
        yield "dropped guard", code[: found.start()] + ";" + code[found.end() :] + rest
    for found in re.finditer(r" && [^&|();,?]*<[^&|();,?]*|[\w.]+ < [^&|();,?]*(?= && )", code):
        replacement = "" if found[0].startswith(" &&") else "true"
        yield "dropped guard", code[: found.start()] + replacement + code[found.end() :] + rest
    for found in re.finditer(r"[\w. +]+ < [^&|();?]*(?= \? )", code):
        yield "dropped guard", code[: found.start()] + " true" + code[found.end() :] + rest
    for found in re.finditer(r"(?<=; )(\w+) < (?=[^;]+;)", code):
        yield "one round more", code[: found.start()] + f"{found[1]} <= " + code[found.end() :] + rest


def mutants(source: str, each: int) -> list[Mutant]:
    """All barriers and waits of a source, and up to `each` of every other kind in every function, evenly spaced."""
    lines = (ROOT / source).read_text(encoding="utf-8").splitlines()
    chosen = []
    for name, begin, end in functions(lines):
        kinds: dict[str, list[Mutant]] = {}
        for number in range(begin, end):
            for what, after in changes(lines[number]):
                kinds.setdefault(what, []).append(Mutant(source, name, number + 1, what, lines[number], after))
        for what, found in kinds.items():
            most = len(found) if what.startswith("removed") else min(each, len(found))
            chosen += [found[i * len(found) // most] for i in range(most)]
    return sorted(chosen, key=lambda mutant: mutant.line)


def tests_of_sources() -> dict[str, list[str]]:
    """The tests of each kernel source, by tests/simt/CMakeLists.txt; of a .cuh: where a source or test includes it."""
    text = (ROOT / "tests" / "simt" / "CMakeLists.txt").read_text(encoding="utf-8")
    tests: dict[str, list[str]] = {}
    for test, sources in re.findall(r"^mnemo_simt_test\((\w+) ([^)]+)\)", text, re.M):
        queue = [source if source.endswith(".cu") else f"tests/simt/{source}" for source in sources.split()]
        for source in queue:
            if source.endswith((".cu", ".cuh")):
                tests.setdefault(source, []).append(test)
            included = re.findall(r'#include "([^"]+\.cuh)"', (ROOT / source).read_text(encoding="utf-8"))
            queue += [path for path in included if path not in queue]
    return tests


def verdict(build: str, program: Path) -> str:
    """What a test says: `-` if nothing."""
    environment = {**os.environ, "TSAN_OPTIONS": "atexit_sleep_ms=0 halt_on_error=1"}
    try:
        done = subprocess.run(
            [program], capture_output=True, text=True, errors="replace", timeout=SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        return "hangs"
    output = done.stdout + done.stderr
    if done.returncode == 0:
        return "-"
    if build == "asan":
        if found := re.search(r"AddressSanitizer: ([\w-]+)", output):
            return found[1]
        if found := re.search(r"runtime error: (\w+)", output):
            return f"UBSan {found[1]}"
    if build == "tsan" and "ThreadSanitizer: data race" in output:
        return "race"
    if "simt: block" in output:
        return "fault"
    if done.returncode < 0 or "[==========]" not in output.split("[----------] Global test environment tear-down")[-1]:
        return "crash"
    return "order" if "of threads" in output and ": Failure\nValue" in output else "numbers"


def build_tests(tree: Path, tests: list[str]) -> bool:
    targets = [f"{test}_{build}" for test in tests for build in BUILDS]
    command = ["cmake", "--build", tree / "build", "-j1", "--target", *targets]
    return subprocess.run(command, capture_output=True, text=True).returncode == 0


def try_out(tree: Path, mutant: Mutant, tests: list[str]) -> dict[str, str] | None:
    """What each build of the first test that notices says of a mutant; None where it does not compile."""
    path = tree / mutant.source
    original = path.read_text(encoding="utf-8")
    lines = original.splitlines()
    lines[mutant.line - 1] = mutant.after
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    try:
        said = {}
        for test in tests:
            if not build_tests(tree, [test]):
                return None
            said = {build: verdict(build, tree / "build" / f"{test}_{build}") for build in BUILDS}
            if set(said.values()) != {"-"}:
                break
        return said
    finally:
        path.write_text(original, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*", help="kernel sources, as in tests/simt/CMakeLists.txt; all by default")
    parser.add_argument("--each", type=int, default=2, help="mutants of a kind in a function (default: 2)")
    parser.add_argument("--list", action="store_true", help="only list them")
    arguments = parser.parse_args()
    tests = tests_of_sources()
    for source in arguments.sources:
        if source not in tests:
            sys.exit(f"kernel_mutants.py: {source} has no test; there are: {' '.join(tests)}")
    jobs = [mutant for source in arguments.sources or tests for mutant in mutants(source, arguments.each)]
    if arguments.list:
        for mutant in jobs:
            print(f"{mutant.source}:{mutant.line} {mutant.function}: {mutant.what}: {mutant.after.strip()}")
        return 0
    counts = dict.fromkeys(("noticed", "unnoticed", "equivalent", "not compiled"), 0)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for part in ("core", "models", "cmake", "tests"):
            shutil.copytree(ROOT / part, tree / part)
        configure = ["cmake", "-S", tree / "tests/simt", "-B", tree / "build", "-G", "Ninja", "-DCMAKE_CXX_FLAGS=-w"]
        subprocess.run(configure, check=True, capture_output=True)
        names = sorted({test for mutant in jobs for test in tests[mutant.source]})
        if not build_tests(tree, names):
            sys.exit("kernel_mutants.py: the tests do not build")
        for test in names:
            for build in BUILDS:
                if (said := verdict(build, tree / "build" / f"{test}_{build}")) != "-":
                    sys.exit(f"kernel_mutants.py: {test}_{build} fails as it is: {said}")
        print(
            "| source | function | line | what | "
            + " | ".join(BUILDS)
            + " | the line |\n|---|---|---|---|---|---|---|---|"
        )
        for mutant in jobs:
            said = try_out(tree, mutant, tests[mutant.source])
            reason = EQUIVALENT.get((mutant.what, mutant.before.strip()))
            if said is None:
                result, columns = "not compiled", ["does not compile", "", ""]
            else:
                columns = list(said.values())
                result = "noticed" if set(columns) != {"-"} else "equivalent" if reason else "unnoticed"
            note = f"; {reason}" if result == "equivalent" else "; UNNOTICED" if result == "unnoticed" else ""
            counts[result] += 1
            cells = [mutant.source, mutant.function, str(mutant.line), mutant.what, *columns]
            print("| " + " | ".join(cells) + f" | `{mutant.after.strip()}`{note} |", flush=True)
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return 1 if counts["unnoticed"] else 0


if __name__ == "__main__":
    sys.exit(main())
