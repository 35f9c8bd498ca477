"""Lay scikit-learn's handwritten digits out for `stoker import`: 1,797 pictures of 8 x 8, a folder a class.

    python examples/digits/make.py FOLDER

The digits are a part of the UCI set "Optical Recognition of Handwritten Digits" (Alpaydin, Kaynak 1998, CC BY
4.0), as the package scikit-learn carries it; nothing is fetched.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits


def main() -> int:
    """Write CLASS/NUMBER.png."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder, digits = Path(sys.argv[1]), load_digits()
    for number, (picture, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        place = folder / str(label) / f"{number:04d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        grey = (picture * (255 / 16)).round().astype(np.uint8)
        Image.fromarray(grey).save(place)
    print(f"{len(digits.target):,} pictures of {len(set(digits.target.tolist()))} classes in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
