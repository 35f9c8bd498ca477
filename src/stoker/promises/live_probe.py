"""Isolation tried just now: a process isolates itself as an agent does, and tries to get out.

`python -m stoker.promises.live_probe PORT NAME PATH` is that process; it answers with one line of JSON.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Final

from stoker.core.isolation import Isolation, IsolationState, Outside, isolate, listening_outside, probe

_TIMEOUT_S: Final = 30.0


def probe_now() -> Isolation:
    """What such a process found; REFUSED with the reason when it could not even be asked."""
    try:
        with listening_outside() as outside:
            where = (str(outside.port), outside.name, outside.path)
            command = [sys.executable, "-P", "-m", "stoker.promises.live_probe", *where]
            done = subprocess.run(command, capture_output=True, timeout=_TIMEOUT_S, check=True)
        answer = json.loads(done.stdout)
        return Isolation(IsolationState(answer["state"]), str(answer["reason"]))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
        return Isolation(IsolationState.REFUSED, f"the probe did not answer ({type(error).__name__})")


def main(port: str, name: str, path: str) -> None:
    """Isolate this process, probe, tell."""
    found = isolate()
    if found.state is IsolationState.ISOLATED:
        found = probe(Outside(int(port), name, path))
    sys.stdout.write(json.dumps({"state": found.state.value, "reason": found.reason}))


if __name__ == "__main__":
    main(*sys.argv[1:4])
