"""How long `stoker verify` takes on a home as the quickstart leaves it: every check, nothing left out.

Run `python bench/verify.py`, or with `--json` for one object. See docs/design/promises.md, "Speed".
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from measuring.command import Size, run
from measuring.figures import Figure, Measured, at_most, median_of, versions_of
from measuring.house import NAME, PURPOSE, RESEARCHER, BenchHouse
from measuring.texts import copy_sources
from measuring.turns import show_round
from stoker.core.progress import SILENT
from stoker.fleet.faults import KillRank
from stoker.fleet.launch import start_run
from stoker.ledger.records import RunOutcome
from stoker.promises.plaintext import shared_folders
from stoker.promises.promise import PROMISES
from stoker.spec.recipe import RecipeSpec
from stoker.spec.run import EvaluateSpec, RunSpec, TrainSpec

CHECKED: Final = at_most(5.0)
METHOD: Final = (
    "The quickstart's home with its defaults: the standard library's sources imported, reviewed by two, "
    "prepared, and a run of the default model on two ranks of which one is killed; only with fewer steps, "
    "and without the evaluation at its end and the key's destruction. Then `stoker verify --json` in a "
    "process of its own, once without being counted and once a round. command_s is the whole process by "
    "the clock on the wall, interpreter and imports with it; checks_s is what the report says that the "
    "checks took; watch_round_s is the same of the second round of `stoker verify --watch`. All eight "
    "promises must be kept in each round. The temporary folder of the machine and its shared memory are "
    "searched too: outside_entries is how many names there are in them, each of which is searched and each "
    "file asked for its times, and outside_files how many files had changed since the home was made."
)


@dataclass(frozen=True, slots=True)
class Verified:
    """One `stoker verify`: seconds of the process, seconds of each round's checks, and what was searched."""

    command_s: float
    rounds_s: tuple[float, ...]
    home_bytes: int
    outside_files: int


def build(root: Path, megabytes: int, steps: int) -> Path:
    """A home below `root` with a source, a dataset and a run that went on after a kill."""
    with BenchHouse(root / "home") as house:
        house.bring(copy_sources(root / "texts", megabytes))
        house.approve(house.scan())
        house.prepare(RecipeSpec())
        summary = start_run(
            RunSpec(
                dataset=NAME,
                name="verify",
                purpose=PURPOSE,
                train=replace(TrainSpec(), steps=steps),
                evaluate=EvaluateSpec(heldout=False, baselines=False, sample_tokens=0),
            ),
            home=house.home,
            ledger=house.ledger,
            backend=house.backend,
            store_url=house.store_url,
            actor=RESEARCHER,
            progress=SILENT,
            clock=house.clock,
            faults=[KillRank(rank=1, at_step=max(1, steps // 3))],
        )
        if summary.outcome is not RunOutcome.FINISHED:
            raise SystemExit(f"the run did not survive: {summary.error}")
        return house.home.root


def verified(home: Path, *options: str) -> Verified:
    """Run the command as a user does; every promise must be kept in every round."""
    command = [sys.executable, "-m", "stoker.cli", "verify", "--json", "--home", str(home), *options]
    began_s = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    took_s = time.perf_counter() - began_s
    if done.returncode:
        raise SystemExit(f"stoker verify: {done.stdout}{done.stderr}")
    rounds = [json.loads(line)["data"] for line in done.stdout.splitlines()]
    for each in rounds:
        kept = [promise["number"] for promise in each["promises"] if promise["standing"] == "kept"]
        if kept != list(PROMISES):
            raise SystemExit(f"kept are only the promises {kept}: {done.stdout}")
    searched = {check["tried"]: check["seen"] for check in rounds[0]["promises"][1]["checks"]}
    inside = next(seen for tried, seen in searched.items() if tried.startswith("STOKER_HOME"))
    outside = next(seen for tried, seen in searched.items() if tried.startswith("shared memory"))
    return Verified(
        took_s,
        tuple(float(each["seconds"]) for each in rounds),
        _number_before(inside, " bytes"),
        _number_before(outside, " files"),
    )


def _number_before(text: str, word: str) -> int:
    return int(text.partition(word)[0].split()[-1].replace(",", ""))


def measure(megabytes: int, steps: int, rounds: int) -> Measured:
    """Seconds of the command and of its checks."""
    with tempfile.TemporaryDirectory() as folder:
        home = build(Path(folder), megabytes, steps)
        verified(home)
        once: list[Verified] = []
        watched: list[Verified] = []
        for turn in range(rounds):
            show_round(turn, rounds)
            once.append(verified(home))
            watched.append(verified(home, "--watch", "--every", "1", "--rounds", "2"))
    figures: dict[str, Figure] = {
        "command_s": median_of([each.command_s for each in once], "s", CHECKED),
        "checks_s": median_of([each.rounds_s[0] for each in once], "s", CHECKED),
        "watch_round_s": median_of([each.rounds_s[1] for each in watched], "s", CHECKED),
    }
    listed = [listing for place in shared_folders() for listing in os.walk(place)]
    entries = sum(len(folders) + len(files) for _, folders, files in listed)
    seen = {
        "home_bytes": once[-1].home_bytes,
        "outside_entries": entries,
        "outside_files": once[-1].outside_files,
    }
    return Measured(figures, METHOD, versions_of("cryptography", "tokenizers"), seen)


SIZES: Final = (
    Size("megabytes", 32, 1, "text in the source; the whole standard library has less"),
    Size("steps", 100, 12, "training steps of the run"),
    Size("rounds", 5, 1, "how often it is verified"),
)

if __name__ == "__main__":
    sys.exit(run("verify", __doc__, SIZES, measure))
