"""Freed memory is kept: counted in page faults, in processes of their own."""

import subprocess
import sys
from pathlib import Path

import pytest

from spectralgpt_hf.training import memory


PROGRAM = """
import ctypes, resource, runpy, sys
kept = runpy.run_path(sys.argv[1])["keep_freed_memory"]() if sys.argv[2] == "True" else False
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size = 2**26
for number in range(20):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    ctypes.memset(block, 1, size)
    libc.free(block)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(keep: bool, **environment: str) -> tuple[bool, int]:
    command = [sys.executable, "-c", PROGRAM, str(Path(memory.__file__)), str(keep)]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.split()
    return printed[0] == "True", int(printed[1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is that of Linux")
def test_large_blocks_are_faulted_in_once():
    kept, few = faults(keep=True)
    if not kept:
        pytest.skip("the C library has no `mallopt`")
    _, many = faults(keep=False)
    assert few < many / 10


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator is that of Linux")
def test_settings_of_the_user_stay_as_they_are():
    kept, _ = faults(keep=True, MALLOC_TRIM_THRESHOLD_="131072")
    assert not kept
