"""scripts/gpu_check.sh where there is no GPU: what it says, and what it does with programs that stand in for one."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the script, whose Python finds a GPU."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/gpu_check.sh").write_bytes((ROOT / "scripts/gpu_check.sh").read_bytes())
    (tmp_path / "scripts/gpu_check.sh").chmod(0o755)
    (tmp_path / "scripts/bench_machine.py").write_text("print('NVIDIA H100, 1980 MHz')\n")
    make(tmp_path / ".venv/bin/python", f'exec {sys.executable} "$@"')
    make(tmp_path / "build/gpu/mnemo", 'mkdir -p "$5/quickstart/q"; for f in metrics.jsonl final.safetensors; '
         'do echo same >"$5/quickstart/q/$f"; done')  # fmt: skip
    make(tmp_path / "bin/ctest", "echo '  Test  #1: model_test'; echo '  Test #12: other_test'")
    make(tmp_path / "build/gpu/tests/model_test", 'test "$MNEMO_TEST_DEVICE" = cuda:0')
    make(tmp_path / "build/gpu/tests/other_test", "echo 'wrong numbers'; exit 1")
    make(tmp_path / "build/gpu/tests/simt/gpu/kernel_tests", "exit 0")
    return tmp_path


def make(path: Path, body: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/bash\n{body}\n")
    path.chmod(0o755)


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [folder / "scripts/gpu_check.sh", *arguments], capture_output=True, text=True, env=environment
    )


def results(folder: Path) -> dict:
    rows = json.loads((folder / "build/gpu_check/gpu_check.json").read_text())
    return {(row["stage"], row["what"]): row["result"] for row in rows}


def test_without_a_gpu_it_says_so(tmp_path):
    pytest.importorskip("torch")
    done = subprocess.run(
        [ROOT / "scripts/gpu_check.sh", "--out", tmp_path, "suite", "sanitize", "bench"],
        capture_output=True, text=True, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert done.returncode == 78
    assert [line.split(": no GPU: ")[0] for line in done.stderr.splitlines()] == ["suite", "sanitize", "bench"]
    rows = json.loads((tmp_path / "gpu_check.json").read_text())
    assert all(row["result"].startswith("none: ") for row in rows) and len(rows) == 3


def test_the_build_takes_pytorchs_libraries_and_all_programs(checkout):
    torch = pytest.importorskip("torch")
    make(checkout / "bin/cmake", 'echo "$@" >>"$0.log"; echo "kernel_tests: phony"')
    assert check(checkout, "build").returncode == 0
    configured, built = [line for line in (checkout / "bin/cmake.log").read_text().splitlines() if "help" not in line]
    assert f"-DMNEMO_CUDA=ON -DLIBTORCH={Path(torch.__file__).parent} " in configured
    assert f"-DCMAKE_PREFIX_PATH={checkout}/build/gpu_packages/usr" in configured
    assert built.endswith("--target mnemo model_test other_test kernel_tests")
    assert results(checkout)["build", "mnemo, 3 test programs"] == "passed"


def test_a_build_that_fails_shows_the_end_of_its_log(checkout):
    pytest.importorskip("torch")
    make(checkout / "bin/cmake", "echo 'no such package: yaml-cpp'; exit 1")
    done = check(checkout, "build")
    assert done.returncode == 1 and "no such package: yaml-cpp" in done.stdout
    assert results(checkout)["build", "configure"] == "failed with status 1"


def test_what_is_no_stage_is_a_usage_error(checkout):
    done = check(checkout, "benchmark")
    assert done.returncode == 64 and "gpu_check.sh [--out DIR]" in done.stderr


def test_the_suite_says_what_failed(checkout):
    done = check(checkout, "suite")
    assert done.returncode == 1 and "wrong numbers" in done.stdout
    found = results(checkout)
    assert found["suite", "GPU"] == "NVIDIA H100, 1980 MHz"
    assert found["suite", "model_test"] == found["suite", "kernel_tests"] == "passed"
    assert found["suite", "other_test"] == "failed with status 1"
    assert found["suite", "equal bytes of the two"] == "passed"
    (checkout / "build/gpu/tests/other_test").unlink()
    make(checkout / "build/gpu/tests/other_test", "exit 0")
    assert check(checkout, "suite").returncode == 0 and results(checkout)["suite", "other_test"] == "passed"


def test_two_runs_of_other_bytes_fail(checkout):
    make(checkout / "build/gpu/mnemo", 'mkdir -p "$5/quickstart/q"; for f in metrics.jsonl final.safetensors; '
         'do echo "$RANDOM$RANDOM" >"$5/quickstart/q/$f"; done')  # fmt: skip
    make(checkout / "build/gpu/tests/other_test", "exit 0")
    assert check(checkout, "suite").returncode == 1
    assert results(checkout)["suite", "equal bytes of the two"] == "failed with status 1"


@pytest.mark.parametrize(
    ("sanitizer", "result", "status"),
    [
        ('[ "$4" = 9 ] && "$5"', "passed", 0),
        ("echo '=== Error: Device not supported'; exit 1", "refused here: === Error: Device not supported", 0),
        ("echo '========= Race reported'; exit 9", "failed with status 9", 1),
    ],
)
def test_the_sanitizer_passes_fails_or_is_refused(checkout, sanitizer, result, status):
    make(checkout / "bin/compute-sanitizer", sanitizer)
    assert check(checkout, "sanitize").returncode == status
    assert [results(checkout)["sanitize", tool] for tool in ("memcheck", "racecheck")] == [result, result]


def test_without_the_kernels_tests_nothing_is_sanitized(checkout):
    (checkout / "build/gpu/tests/simt/gpu/kernel_tests").unlink()
    assert check(checkout, "sanitize").returncode == 1
    assert results(checkout)["sanitize", "kernel_tests"] == "missing"


def test_the_bench_goes_through_its_list(checkout):
    (checkout / "scripts/bench_peers.py").write_text(
        "import sys\nprint(sys.argv)\n"
        "open(sys.argv[sys.argv.index('--out') + 1] + 'x_fp32.json', 'w') if '--out' in sys.argv else print('SHOWN')\n"
        "sys.exit(65 if 'dam' in sys.argv else 75 if 'evaluate' in sys.argv else 0)\n"
    )
    done = check(checkout, "bench")
    assert done.returncode == 0 and "SHOWN" in done.stdout and "x_fp32.json" in done.stdout
    found = results(checkout)
    assert found["bench", "one_layer"] == "passed"
    assert found["bench", "evaluate"].startswith("not all in the time")
    assert found["bench", "dam --config S"] == "measured; some were refused"


LIST = re.findall(r'^  "((?:one_layer|dam|evaluate).*?)"', (ROOT / "scripts/gpu_check.sh").read_text(), re.M)


@pytest.mark.parametrize("line", LIST)
def test_its_list_is_understood(line):
    import bench_peers

    parsed = bench_peers.make_parser().parse_args([*line.split(), "--device", "cuda", "--missing", "--minutes", "1"])
    assert bench_peers.what_is_wrong(parsed) == "" and bench_peers.jobs_of(parsed)
    assert all(bench_peers.wanted(job, None) for job in bench_peers.jobs_of(parsed))
