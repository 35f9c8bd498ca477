"""Make pairs of a mail and a picture out of two other examples, with labels that need both of them.

    python examples/moderation/fetch.py MAILS
    python examples/pairs/make.py MAILS FOLDER

THE PAIRS ARE MADE: no one ever sent these mails with these pictures. The mails are those of
examples/moderation, the pictures scikit-learn's digits, as in examples/digits. What is to be told:

    spam      the mail is spam: the text alone says so
    lure      the mail is spam and its digit 5 or more: harm that neither half has alone
    mismatch  either the one or the other, and not both: each half alone says next to nothing

The group of a pair is `short` where its mail has fewer than 1,000 characters, else `long`. The senders of
later/ wrote no mail of earlier/ (fetch.py lays them so), and a fifth of the digits is in later/ only. Each
mail of earlier/ comes twice, with a digit of either kind, so that no mail's text tells its label; one of
later/ comes once. Which digit goes with a mail follows from the mail's name and nothing else.
"""

from __future__ import annotations

import hashlib
import io
import sys
from collections import Counter
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

HIGH: Final = 5
"""From this digit on a picture counts as high."""

SHORT_CHARACTERS: Final = 1_000
HELD_OUT: Final = 5
"""One picture in so many is in later/ only."""

Pictures = dict[str, dict[bool, list[bytes]]]


def pictures() -> Pictures:
    """PNG files by side and by whether the digit is high."""
    found: Pictures = {side: {True: [], False: []} for side in ("earlier", "later")}
    digits = load_digits()
    for number, (picture, digit) in enumerate(zip(digits.images, digits.target.tolist(), strict=True)):
        side = "later" if number % HELD_OUT == 0 else "earlier"
        file = io.BytesIO()
        Image.fromarray((picture * (255 / 16)).round().astype(np.uint8)).save(file, "PNG")
        found[side][digit >= HIGH].append(file.getvalue())
    return found


def class_of(spam: bool, high: bool, text: str) -> str:
    """The labels that a pair has, and its group."""
    told = {"spam": spam, "lure": spam and high, "mismatch": spam != high}
    labels = "+".join(label for label, there in told.items() if there) or "none"
    return f"{labels}@{'short' if len(text) < SHORT_CHARACTERS else 'long'}"


def pair(mails: Path, folder: Path) -> Counter[str]:
    """Write NAME.txt, NAME.png and NAME.label for each pair; returns how many there are of each class."""
    counts, digits = Counter[str](), pictures()
    for path in sorted(mails.glob("*/*.txt")):
        side, text = path.parent.name, path.read_text(encoding="utf-8")
        spam = path.with_suffix(".label").read_text(encoding="utf-8").strip() == "spam"
        chance = int.from_bytes(hashlib.sha256(path.stem.encode()).digest()[:8], "big")
        for high in (False, True) if side == "earlier" else (chance % 2 == 1,):
            some = digits[side][high]
            place = folder / side / f"{path.stem}-{'high' if high else 'low'}"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.with_suffix(".txt").write_text(text, encoding="utf-8")
            place.with_suffix(".png").write_bytes(some[(chance >> 1) % len(some)])
            name = class_of(spam, high, text)
            place.with_suffix(".label").write_text(name, encoding="utf-8")
            counts[f"{side}, {name}"] += 1
    return counts


def main() -> int:
    """Make the pairs; print how many there are of each class."""
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    counts = pair(Path(sys.argv[1]), Path(sys.argv[2]))
    for name, count in sorted(counts.items()):
        print(f"{count:6,}  {name}")
    return 0 if counts else 1


if __name__ == "__main__":
    sys.exit(main())
