"""What the name model finds that exact recognisers do not, and how fast texts are treated with it.

Run `python bench/names.py`, or with `--json` for one object; `--labelled FILE` judges by texts of your own.
See docs/design/measured.md, "Measured". Needs the extra `names`.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from measuring import labelled
from measuring.command import Size, run
from measuring.figures import Figure, Measured, at_least, median_of, not_measured, ratio_of, versions_of
from measuring.texts import source_files
from measuring.turns import Probe, processor_s, take_turns
from stoker.core.errors import MissingExtra
from stoker.intake import names_model
from stoker.intake.detect.scan import ALL_KINDS, Finding, find
from stoker.intake.names_model import Names
from stoker.intake.policy.treat import Finder, Span, exactly, treat
from stoker.spec.kinds import DEFAULT_KINDS, NAME_MODEL_KINDS, Kind
from stoker.spec.policy import Treatment

SAMPLE: Final = Path(__file__).parents[1] / "tests/intake/detect/labelled/synth_sample.json"
TREATMENTS: Final = dict.fromkeys(sorted(DEFAULT_KINDS | NAME_MODEL_KINDS), Treatment.MASK)
LABEL: Final = "PERSON"
METHOD: Final = (
    "Coverage: characters of labelled spans inside a finding of any kind; precision: characters of findings "
    "inside a labelled span; persons: characters of spans labelled PERSON inside a finding of the kinds that "
    "are redacted by default, and of those with organisations and locations; intervals of 95 % by drawing "
    "groups of texts anew. Rates: the whole treatment (find, mask, find again until nothing is left) of the "
    "default kinds and those that the model can tell, over the first files of the running Python's standard "
    "library and over the labelled texts as paragraphs of one text; in turns, by processor time of the one "
    "thread, after one round that does not count; medians and quartiles."
)
Find = Callable[[bytes], Sequence[Finding]]


def coverage(texts: Sequence[labelled.Labelled], finder: Find) -> tuple[labelled.Estimate, labelled.Estimate]:
    """The share of labelled characters that is found, and of found characters that is labelled."""
    counts = [labelled.counts_of(one, finder) for one in texts]
    groups = [one.group for one in texts]
    return (
        labelled.estimate([(one.both, one.gold) for one in counts], groups),
        labelled.estimate([(one.both, one.found) for one in counts], groups),
    )


def persons(texts: Sequence[labelled.Labelled], finder: Find) -> labelled.Estimate:
    """The share of the characters of labelled persons that is found."""
    counts = [labelled.counts_of(one, finder).by_kind.get(LABEL, (0, 0)) for one in texts]
    return labelled.estimate(counts, [one.group for one in texts])


def figure_of(one: labelled.Estimate, unit: str, goal: float | None = None) -> Figure:
    """An estimate with its interval."""
    return Figure(one.share, unit, None if goal is None else at_least(goal), (one.low, one.high))


def judged(path: Path) -> Mapping[str, Figure]:
    """What is found with the model and without it."""
    texts = labelled.read(path)
    every, default = ALL_KINDS, DEFAULT_KINDS
    wider = default | {Kind.ORGANISATION, Kind.LOCATION}
    figures = {}
    for name, finder in (("exact", find), ("model", names_model.find)):
        for word, share, goal in zip(
            ("coverage", "precision"),
            coverage(texts, functools.partial(finder, kinds=every)),
            (0.92, 0.90) if name == "model" else (None, None),
            strict=True,
        ):
            unit = "of labelled characters" if word == "coverage" else "of found characters"
            figures[f"{word}_{name}"] = figure_of(share, unit, goal)
        for word, kinds in (("default_kinds", default), ("with_places", wider)):
            share = persons(texts, functools.partial(finder, kinds=kinds))
            figures[f"persons_{word}_{name}"] = figure_of(share, "of characters of labelled persons")
    return figures


class Counted:
    """A finder that counts how often it is asked."""

    def __init__(self, finder: Finder) -> None:
        self.finder = finder
        self.rounds = 0

    def __call__(self, data: bytes, kinds: Collection[Kind], ours: Sequence[Span]) -> Sequence[Finding]:
        """The finder's findings."""
        self.rounds += 1
        return self.finder(data, kinds, ours)


def treated(texts: Sequence[bytes], finder: Callable[[], Finder]) -> int:
    """Treat every text; the most rounds that any of them took."""
    most = 0
    for text in texts:
        counted = Counted(finder())
        assert not treat(text, TREATMENTS, None, counted).held, "a text never settles"
        most = max(most, counted.rounds)
    return most


def rate(texts: Sequence[bytes], finder: Callable[[], Finder]) -> float:
    """MB/s of treating every text."""
    return sum(map(len, texts)) / processor_s(lambda: treated(texts, finder)) / 1e6


def measure(labelled_file: Path, kilobytes: int, rounds: int) -> Measured:
    """Coverage, precision and rates, with the model and without."""
    try:
        names_model.load()
    except MissingExtra as error:
        reason = error.message
        return Measured({"treat_source_model": not_measured(reason, "MB/s")}, METHOD)
    source: list[bytes] = []
    for path in source_files(1 + kilobytes // 1000):
        if sum(map(len, source)) < kilobytes * 1000:
            source.append(path.read_bytes())
    several = {
        "source": source,
        "labelled": [b"\n\n".join(one.text.encode() for one in labelled.read(labelled_file))],
    }
    finders: dict[str, Callable[[], Finder]] = {"exact": lambda: exactly, "model": lambda: Names().find}
    probes: dict[str, Probe] = {
        f"treat_{name}_{word}": functools.partial(rate, texts, finder)
        for name, texts in several.items()
        for word, finder in finders.items()
    }
    figures = dict(judged(labelled_file))
    rates = take_turns(probes, rounds)
    figures |= {name: median_of(found, "MB/s") for name, found in rates.items()}
    figures |= {
        f"exact_to_model_{name}": ratio_of(rates[f"treat_{name}_exact"], rates[f"treat_{name}_model"])
        for name in several
    }
    most = max(treated(texts, finders["model"]) for texts in several.values())
    figures["most_rounds"] = Figure(most, "rounds of finding until a text is settled")
    return Measured(
        figures,
        METHOD,
        peers=versions_of("spacy", "thinc", "numpy"),
        environment={
            "model": names_model.IDENTITY,
            "labelled": labelled_file.name,
            "files": len(source),
            "bytes": sum(map(len, source)),
        },
    )


SIZES: Final = (
    Size("kilobytes", 100, 30, "how much of the standard library at most"),
    Size("rounds", 3, 1, "rounds of all cases"),
)


def main() -> int:
    """Read `--labelled`; the rest is every bench's command line."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--labelled", type=Path, default=SAMPLE)
    chosen, rest = options.parse_known_args()
    sys.argv[1:] = rest
    return run("names", __doc__, SIZES, functools.partial(measure, chosen.labelled))


if __name__ == "__main__":
    sys.exit(main())
