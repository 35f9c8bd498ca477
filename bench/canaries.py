"""How much of what is planted the recognisers find: people who do not exist, in the standard library's texts.

Run `python bench/canaries.py`, or with `--json` for one object; `--canaries 100000` is the attack list's
ATK-041. See docs/design/measured.md, "Canaries".
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Final

from measuring.command import Size, run
from measuring.figures import Figure, Measured, at_least, rate_of, versions_of
from measuring.texts import source_files
from measuring.turns import show_round, wall_s
from stoker.intake.canaries.recall import GROUPS, HOST_BYTES, PlantTask, Tally, plant
from stoker.intake.proportion import Share
from stoker.spec.kinds import DEFAULT_KINDS

SEED: Final = b"measured"
HOSTS: Final = 64
PART: Final = 500
REDACTED: Final = at_least(0.85)
OTHER: Final = at_least(0.70)
METHOD: Final = (
    "People made from their number and a fixed seed, in thirteen countries, twelve languages, ten forms and "
    "six ways of writing, each planted in the beginning of a file of the running Python's standard library, "
    "as `stoker review scan --canaries` plants them in a source's own texts; the exact recognisers alone, in "
    "one process. A value counts as found when every letter and digit of it lies in a finding. recall_KIND "
    "is the share that is found, with its interval of 95 % (Clopper and Pearson) in the place of quartiles; "
    "recall_ is also told by language, form and way of writing. low_ is the lowest lower bound of the kinds "
    "that a policy redacts unless told otherwise, of the others, and of the ways of writing: what a gate "
    "with a least recall is held against."
)


def hosts() -> tuple[bytes, ...]:
    """Pieces of real text; none inside a character."""
    texts = [path.read_bytes()[: 2 * HOST_BYTES] for path in source_files(1)][:HOSTS]
    return tuple(text.decode(errors="ignore").encode() for text in texts)


def recalls(shares: Mapping[str, Share], prefix: str) -> dict[str, Figure]:
    """A figure for each name, with its interval."""
    return {
        f"{prefix}_{name}": Figure(one.value, f"of {one.of:,}", None, (one.low, one.high))
        for name, one in shares.items()
    }


def measure(canaries: int) -> Measured:
    """Plant so many people, and tell which of their values are found."""
    texts = hosts()
    total = Tally()
    seconds = 0.0
    for first in range(0, canaries, PART):
        show_round(first // PART, -(-canaries // PART))
        task = PlantTask(first, min(first + PART, canaries), SEED, texts)
        seconds += wall_s(lambda task=task: total.merge(plant(task)))  # type: ignore[misc]
    by_kind = total.shares("kind")
    redacted = [share.low for kind, share in by_kind.items() if kind in DEFAULT_KINDS]
    others = [share.low for kind, share in by_kind.items() if kind not in DEFAULT_KINDS]
    writings = total.shares("writing")
    figures = {
        "low_redacted": Figure(min(redacted), "lower bound", REDACTED),
        "low_other": Figure(min(others), "lower bound", OTHER),
        "low_writing": Figure(min(share.low for share in writings.values()), "lower bound", REDACTED),
        "rate": rate_of(canaries, [seconds], "canaries/s"),
        **recalls(by_kind, "recall"),
    }
    for group in GROUPS:
        figures |= recalls(total.shares(group), f"recall_{group}")
    planted = sum(share.of for share in by_kind.values())
    found = sum(share.found for share in by_kind.values())
    return Measured(
        figures, METHOD, versions_of("google-re2", "phonenumbers"), {"planted": planted, "found": found}
    )


SIZES: Final = (Size("canaries", 2_000, 400, "people planted"),)

if __name__ == "__main__":
    sys.exit(run("canaries", __doc__, SIZES, measure))
