"""Memory that a step frees is there for the next one."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

BLOCK_BYTES: Final = 40 << 20
PAGES: Final = BLOCK_BYTES >> 12
ROUNDS: Final = 10
STEPS: Final = f"""
import ctypes, resource, sys
from stoker.train.host_memory import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
library = ctypes.CDLL(None)
library.malloc.restype = ctypes.c_void_p
def step():
    block = ctypes.c_void_p(library.malloc({BLOCK_BYTES}))
    library.memset(block, 1, {BLOCK_BYTES})
    library.free(block)
step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range({ROUNDS}):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Page faults of some rounds of asking for a block and freeing it."""
    done = subprocess.run([sys.executable, "-c", STEPS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_a_steps_memory_is_not_fetched_from_the_kernel_anew() -> None:
    assert faults("given back") >= ROUNDS * PAGES, "the C library keeps it by itself: no setting is needed"
    assert faults("kept") < PAGES
