"""`python -m support.chaos --faults 200 --seed 1`: a fault campaign, in namespaces of its own.

Exit code 0: the run went through all of it unharmed.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from support.chaos.campaign import Campaign
from support.chaos.findings import findings, tables
from support.chaos.site import open_site

_INSIDE: Final = "STOKER_CHAOS_INSIDE"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m support.chaos", description=__doc__)
    parser.add_argument("--faults", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="copy the home there at the end")
    words = parser.parse_args()
    if _INSIDE not in os.environ:
        _enter_namespaces()
    _become_child_of_init()
    with tempfile.TemporaryDirectory(prefix="stoker-chaos-") as folder:
        return _campaign(Path(folder), words.faults, words.seed, words.keep)


def _campaign(root: Path, count: int, seed: int, keep: Path | None) -> int:
    begun_s = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - begun_s:7.1f}  {line}", flush=True)

    with open_site(root) as site:
        campaign = Campaign(site, count, seed, say)
        try:
            campaign.prepare()
            say("prepared")
            campaign.calm()
            say(f"undisturbed run of {campaign.steps} steps done")
            campaign.storm()
            say("the run has ended; looking what is left of it")
            wrong = findings(campaign)
            print(tables(campaign))
        except BaseException:
            print((root / "supervisor.log").read_text()[-4000:], file=sys.stderr)
            raise
        finally:
            if keep is not None:
                shutil.copytree(root, keep, symlinks=True, dirs_exist_ok=True)
    for each in wrong:
        print(f"WRONG: {each}")
    print(f"{count} faults, seed {seed}: {'unharmed' if not wrong else 'harmed'}")
    return 1 if wrong else 0


def _enter_namespaces() -> None:
    """Run this program anew with a network, mounts and processes of its own; all of it ends with it."""
    own = ["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    os.environ[_INSIDE] = "yes"
    command = ["unshare", *user, *own, sys.executable, "-m", "support.chaos", *sys.argv[1:]]
    os.execvp(command[0], command)


def _become_child_of_init() -> None:
    """The first process of the namespace reaps what others leave, and ends with the campaign, its child."""
    if os.getpid() != 1:
        return
    child = os.fork()
    if child == 0:
        return
    while True:
        pid, status = os.wait()
        if pid == child:
            os._exit(os.waitstatus_to_exitcode(status) & 0xFF)


if __name__ == "__main__":
    sys.exit(main())
