"""Data for comparing loaders: random tokens that carry their number, and JPEG files of a usual size."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Final

import numpy as np

TOKENS: Final = 2048
_CELLS: Final = 14
_SIDE: Final = 224


def write_tokens(path: Path, megabytes: int) -> None:
    """A .npy file of samples [count, 2048] in uint16; the first two tokens are the sample's number."""
    count = megabytes * 1_000_000 // (2 * TOKENS)
    tokens = np.random.default_rng(0).integers(0, 1 << 16, (count, TOKENS), dtype=np.uint16)
    tokens[:, :2] = np.arange(count, dtype="<u4").view("<u2").reshape(count, 2)
    np.save(path, tokens)


def write_files(folder: Path, megabytes: int) -> None:
    """A folder of JPEG files of about 8 kB: smooth random pictures of 224 by 224 pixels."""
    from PIL import Image

    folder.mkdir()
    random, written, number = np.random.default_rng(0), 0, 0
    while written < megabytes * 1_000_000:
        cells = random.integers(0, 256, (_CELLS, _CELLS, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(cells).resize((_SIDE, _SIDE), Image.Resampling.BILINEAR).save(
            file, "JPEG", quality=80
        )
        (folder / f"{number:06d}.jpg").write_bytes(file.getvalue())
        written, number = written + file.tell(), number + 1
