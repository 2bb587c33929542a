"""The table of registers, spills and shared memory of all kernels, against nvcc where there is one."""

import kernel_registers as registers
import pytest

NVCC = registers.find_nvcc()
OUTPUT = """
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function '_ZN5mnemo4readIfLi4EEEvPT_' for 'sm_80'
ptxas info    : Function properties for _ZN5mnemo4readIfLi4EEEvPT_
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 38 registers, used 1 barriers, 16 bytes smem, 456 bytes cmem[0], 176 bytes cmem[2]
ptxas info    : Function properties for __internal_accurate_pow
    0 bytes stack frame, 1 bytes spill stores, 1 bytes spill loads
ptxas info    : Compiling entry function '_ZN5mnemo12_GLOBAL__N_15writeEi' for 'sm_80'
ptxas info    : Function properties for _ZN5mnemo12_GLOBAL__N_15writeEi
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, used 0 barriers
"""


def test_output_of_ptxas_is_read():
    assert registers.parse("a.cu", OUTPUT) == [
        ("a.cu", "read<float, 4>", "sm_80", 38, 18, 16),
        ("a.cu", "write", "sm_80", 8, 0, 0),
    ]


def test_table_names_its_compiler_and_no_spills():
    lines = registers.TABLE.read_text(encoding="utf-8").splitlines()
    assert registers.version_of_table()
    assert len(lines) > 2
    for line in lines[2:]:
        assert line.split()[4] == "0", line


@pytest.mark.skipif(NVCC is None, reason="no nvcc")
def test_kernels_are_as_the_table_says_and_spill_nothing():
    kernels, version = registers.measure(NVCC), registers.version_of(NVCC)
    assert not [kernel for kernel in kernels if kernel.spilled]
    if version == registers.version_of_table():
        assert registers.format_table(version, kernels) == registers.TABLE.read_text(encoding="utf-8"), (
            "look why, then run scripts/kernel_registers.py --update"
        )
