"""The benchmarks' shared code is found where a benchmark finds it: beside itself."""

from __future__ import annotations

import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"

if str(BENCH) not in sys.path:
    sys.path.append(str(BENCH))
