"""How much personal data the scan finds in labelled texts, and how fast it looks through ordinary ones.

Run `python bench/review.py`, or with `--json` for one object; `--labelled FILE` judges by texts of your own.
See docs/design/detect.md, "Judged" and "Measured".
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

from measuring import labelled
from measuring.command import Size, run
from measuring.figures import Figure, Measured, at_least, at_most, median_of, ratio_of, versions_of
from measuring.texts import source_files
from measuring.turns import Probe, processor_s, take_turns
from stoker.core.canonical import JsonValue
from stoker.intake.detect.patterns import PATTERNS
from stoker.intake.detect.scan import ALL_KINDS, find, find_each, redact, set_of
from stoker.intake.workers import batches as batches_of
from stoker.spec.kinds import DEFAULT_KINDS

ROOT: Final = Path(__file__).parents[1]
SAMPLE: Final = ROOT / "tests/intake/detect/labelled/synth_sample.json"
DOCUMENTATION: Final = Path("/usr/share/doc")
PEER_BYTES: Final = 200_000
"""Python's re tries every word of every list at every byte, so it gets little text."""
SCAN_BYTES: Final = 1 << 20
METHOD: Final = (
    "Coverage: characters of labelled spans inside a finding of any kind; precision: characters of "
    "findings inside a labelled span; intervals of 95 % by drawing groups of texts anew. Rates: the "
    "running Python's standard library (*.py without site-packages), the text files under "
    "/usr/share/doc, and the labelled texts joined by line ends. In each round, in rotating order: the "
    "RE2 set alone over every file; the whole cascade, a mebibyte of files at a time as a scan takes "
    "them, and the files of the standard library one by one; redaction of the default kinds; find on hostile "
    "inputs of 256 KiB; Python's re with all shapes joined by '|'. By processor time of the one thread, "
    "after one round that is not counted; medians and quartiles; ratios round by round."
)
HOSTILE: Final[dict[str, bytes]] = {
    "digits": b"4" * 262144,
    "grouped_digits": b"12 " * 87381,
    "grouped_cards": b"4444 " * 52428,
    "letters": b"a" * 262144,
    "capitals": b"Xqzt " * 52428,
    "addresses": b"a@" * 131072,
    "dots": b"1." * 131072,
    "colons": b"a:" * 131072,
    "tags": b"<a" * 131072,
    "quotes": b'"a":"' * 52428,
    "blanks": b" " * 262144,
    "zero_width": "a\u200b".encode() * 65536,
    "mixed_scripts": "aа".encode() * 87381,
    "keys": b"-----BEGIN PRIVATE KEY-----" * 9709,
}


def rate(texts: Sequence[bytes], work: Callable[[bytes], object]) -> float:
    """MB/s of `work` over every text."""
    return sum(map(len, texts)) / processor_s(lambda: [work(text) for text in texts]) / 1e6


def rate_of_all(texts: Sequence[bytes]) -> float:
    """MB/s of the whole cascade over every text, a mebibyte at a time as a scan takes them."""
    batches = list(batches_of(texts, len, SCAN_BYTES))
    return sum(map(len, texts)) / processor_s(lambda: [find_each(batch) for batch in batches]) / 1e6


def documentation(megabytes: int) -> list[bytes]:
    """Text files that Debian's packages bring, until they hold `megabytes`."""
    texts: list[bytes] = []
    for path in sorted(DOCUMENTATION.rglob("*")):
        if sum(map(len, texts)) >= megabytes * 1_000_000:
            break
        if path.suffix not in ("", ".txt", ".md", ".rst") or path.is_symlink() or not path.is_file():
            continue
        data = path.read_bytes()
        try:
            data.decode()
        except UnicodeDecodeError:
            continue
        texts.append(data)
    return texts


def judged(path: Path) -> tuple[dict[str, Figure], dict[str, JsonValue]]:
    """Coverage and precision on the labelled texts, overall and by kind."""
    texts = labelled.read(path)
    counts = [labelled.counts_of(one, find) for one in texts]
    groups = [one.group for one in texts]
    coverage = labelled.estimate([(one.both, one.gold) for one in counts], groups)
    precision = labelled.estimate([(one.both, one.found) for one in counts], groups)
    kinds = sorted({kind for one in counts for kind in one.by_kind})
    shares = {
        kind: labelled.estimate([one.by_kind.get(kind, (0, 0)) for one in counts], groups) for kind in kinds
    }
    by_kind: dict[str, JsonValue] = {kind: asdict(one) for kind, one in shares.items()}
    figures = {
        "coverage": Figure(
            coverage.share, "of labelled characters", at_least(0.85), (coverage.low, coverage.high)
        ),
        "precision": Figure(
            precision.share, "of found characters", at_least(0.90), (precision.low, precision.high)
        ),
    }
    figures |= {
        f"coverage_{kind.lower()}": Figure(one.share, "of labelled characters", None, (one.low, one.high))
        for kind, one in shares.items()
    }
    return figures, {"labelled": path.name, "texts": len(texts), "by_kind": by_kind}


def measure(labelled_file: Path, megabytes: int, rounds: int) -> Measured:
    """Coverage, precision, and rates of each stage."""
    figures, facts = judged(labelled_file)
    source = [path.read_bytes() for path in source_files(megabytes)]
    peer = [b"".join(source[:64])[:PEER_BYTES]]
    texts = {
        "source": source,
        "labelled": ["\n".join(one.text for one in labelled.read(labelled_file)).encode()],
    }
    if documents := documentation(min(megabytes, 10)):
        texts["documentation"] = documents
    stage_one = set_of(ALL_KINDS)
    joined = re.compile(b"|".join(b"(?:" + _inline(one.expression) + b")" for one in PATTERNS))
    probes: dict[str, Probe] = {"set": lambda: rate(source, stage_one.Match)}
    for name, several in texts.items():
        probes[f"find_{name}"] = lambda several=several: rate_of_all(several)  # type: ignore[misc]
    probes["find_one_by_one"] = lambda: rate(source, find)
    probes["redact"] = lambda: rate(source, lambda text: redact(text, DEFAULT_KINDS))
    for name, hostile in HOSTILE.items():
        probes[f"hostile_{name}"] = lambda hostile=hostile: rate([hostile], find)  # type: ignore[misc]
    probes["python_re"] = lambda: rate(peer, lambda text: sum(1 for _ in joined.finditer(text)))
    for probe in probes.values():
        probe()
    rates = take_turns(probes, rounds)
    goals = {"set": at_least(250.0), "find_source": at_least(40.0)}
    figures |= {
        name: median_of(found, "MB/s", goals.get(name))
        for name, found in rates.items()
        if not name.startswith("hostile_")
    }
    worst = min(
        (name for name in rates if name.startswith("hostile_")),
        key=lambda name: sorted(rates[name])[len(rates[name]) // 2],
    )
    figures["worst_hostile"] = ratio_of(rates["find_source"], rates[worst], at_most(2.0))
    figures["find_to_python_re"] = ratio_of(rates["find_source"], rates["python_re"], at_least(10.0))
    figures["findings"] = Figure(
        sum(len(find(text, DEFAULT_KINDS)) for text in source), "of default kinds in the source texts"
    )
    return Measured(
        figures,
        METHOD,
        peers=versions_of("google-re2", "phonenumbers", "numpy"),
        environment={
            "files": len(source),
            "bytes": sum(map(len, source)),
            "worst_hostile_is": worst,
            **facts,
        },
    )


def _inline(expression: bytes) -> bytes:
    """Python wants flags at the start of the whole expression; here they apply to one part."""
    found = re.match(rb"\(\?([im])\)", expression)
    return b"(?" + found[1] + b":" + expression[4:] + b")" if found else expression


SIZES: Final = (
    Size("megabytes", 40, 1, "how much text at most"),
    Size("rounds", 5, 1, "rounds of all cases"),
)


def main() -> int:
    """Read `--labelled`; the rest is every bench's command line."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--labelled", type=Path, default=SAMPLE)
    chosen, rest = options.parse_known_args()
    sys.argv[1:] = rest
    return run(
        "review", __doc__, SIZES, lambda megabytes, rounds: measure(chosen.labelled, megabytes, rounds)
    )


if __name__ == "__main__":
    sys.exit(main())
