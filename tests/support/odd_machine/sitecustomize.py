"""Put on PYTHONPATH, this makes the machine under a command odd: its disk is slow, or its clock is ahead.

Nothing of Stoker is touched: only what the operating system answers. See support/cli_home.py.
"""

import os
import time

_slow_s = float(os.environ.get("ODD_MACHINE_SLOW_S", "0"))
_ahead_s = float(os.environ.get("ODD_MACHINE_AHEAD_S", "0"))

if _slow_s:

    def _slowed(call):
        def slow(*arguments):
            time.sleep(_slow_s)
            return call(*arguments)

        return slow

    os.fsync, os.write = _slowed(os.fsync), _slowed(os.write)

if _ahead_s:
    _true_time = time.time
    time.time = lambda: _true_time() + _ahead_s
