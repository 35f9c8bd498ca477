"""Slurm's commands as processes: what is asked of them, what goes along with a job, and nothing parsed.

Rooms above read what the commands say, and raise errors of their own. See docs/design/slurm.md.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

PASSED_ON: Final = ("PATH", "HOME", "LANG", "PYTHONPATH", "STOKER_HOME")
"""The variables that go along. Slurm keeps a job's environment on its disk, so no others do."""

COMMAND_PATIENCE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Submission:
    """What sbatch answered: the job's number, or "" with what it said when it took none."""

    job: str
    said: str = ""


def missing_commands(names: Sequence[str]) -> list[str]:
    """Those of Slurm's commands that this machine does not have."""
    return [name for name in names if shutil.which(name) is None]


def slurm_command(
    *arguments: str,
    script: str | None = None,
    environment: Mapping[str, str] | None = None,
    patience_s: float = COMMAND_PATIENCE_S,
) -> subprocess.CompletedProcess[str]:
    """Run one of Slurm's commands; one that does not answer in time has code 1 and said "no answer".

    It does not hear Ctrl-C: it must end what it was told to end. Times are told in UTC as seconds or in
    ISO form, numbers and words in English, whatever the caller's settings are.
    """
    given = dict(os.environ if environment is None else environment)
    given |= {"LC_ALL": "C", "TZ": "UTC0", "SLURM_TIME_FORMAT": "%Y-%m-%dT%H:%M:%S"}
    try:
        return subprocess.run(
            arguments,
            input=script,
            stdin=subprocess.DEVNULL if script is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=patience_s,
            env=given,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(arguments, 1, "", "no answer")


def submitted(script: str, folder: str, environment: Mapping[str, str] | None = None) -> Submission:
    """Submit a batch script whose job begins in `folder`; times in it are the submitter's."""
    done = slurm_command("sbatch", "--parsable", f"--chdir={folder}", script=script, environment=environment)
    job = done.stdout.strip().partition(";")[0]
    if done.returncode != 0 or not job.isdecimal():
        return Submission("", (done.stderr.strip() or done.stdout.strip())[:300])
    return Submission(job)


def exported(names: Sequence[str]) -> str:
    """What `#SBATCH --export=` takes: those of `names` that are set here."""
    return ",".join(name for name in names if name in os.environ or name == "STOKER_HOME")


def user_name() -> str:
    """The name by which Slurm knows who runs this process."""
    return pwd.getpwuid(os.getuid()).pw_name
