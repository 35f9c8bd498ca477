"""Equal and nearly equal documents, by digest and by MinHash. See docs/design/quality.md.

Signatures are datasketch's MinHash over shingles of words (docs/decisions/0441-datasketch.md).
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final

import numpy as np

from stoker.core.errors import MissingExtra

if TYPE_CHECKING:
    from datasketch import MinHash

DIGEST_BYTES: Final = 16
_SEED: Final = 1
_SCHEME: Final = "affine32"  # fixed: a signature means the same under every version of the library


def exact_digest(document: bytes) -> bytes:
    """16 bytes of SHA-256: equal documents have equal ones."""
    return hashlib.sha256(document).digest()[:DIGEST_BYTES]


def signature(words: Sequence[str], *, shingle_words: int, permutations: int) -> bytes:
    """The MinHash of the document's runs of `shingle_words` words, 4 bytes a permutation, little-endian.

    A shorter document is one run. Empty for a document without words. Raises MissingExtra.
    """
    if not words:
        return b""
    runs = max(1, len(words) - shingle_words + 1)
    # A checksum is enough here: nothing rests on shingles being hard to forge, and the scheme mixes it.
    hashes = {zlib.crc32(" ".join(words[at : at + shingle_words]).encode()) for at in range(runs)}
    sketch = _min_hash(permutations)
    sketch.update_batch(sorted(hashes))
    return np.asarray(sketch.hashvalues).astype("<u4").tobytes()


def similarity(one: bytes, other: bytes) -> float:
    """The estimated Jaccard similarity of two documents: how many of their minima agree."""
    left, right = np.frombuffer(one, "<u4"), np.frombuffer(other, "<u4")
    return float(np.count_nonzero(left == right)) / len(left)


def near_duplicates(signatures: Iterable[bytes], threshold: float, permutations: int) -> list[int | None]:
    """For each document the earlier, kept one that it nearly equals, by number; None where it stays.

    Candidates share a band of the signature; one whose estimated similarity is at least `threshold` makes
    the later document a duplicate. In order and greedy, so the answer is a function of the order. Documents
    with an empty signature equal nothing. Raises MissingExtra.
    """
    index = _Bands(threshold, permutations)
    found: list[int | None] = []
    for number, sketch in enumerate(signatures):
        original = index.find(sketch) if sketch else None
        if sketch and original is None:
            index.add(number, sketch)
        found.append(original)
    return found


class _Bands:
    """Kept signatures by bands: each band's rows together name the documents that share them."""

    def __init__(self, threshold: float, permutations: int) -> None:
        self._threshold = threshold
        self._bands, self._rows = _shape(threshold, permutations)
        self._by_band: list[dict[bytes, list[int]]] = [{} for _ in range(self._bands)]
        self._kept: dict[int, bytes] = {}

    def find(self, sketch: bytes) -> int | None:
        candidates = {
            number
            for band, by_rows in enumerate(self._by_band)
            for number in by_rows.get(self._part(sketch, band), ())
        }
        fitting = (n for n in candidates if similarity(self._kept[n], sketch) >= self._threshold)
        return min(fitting, default=None)

    def add(self, number: int, sketch: bytes) -> None:
        self._kept[number] = sketch
        for band, by_rows in enumerate(self._by_band):
            by_rows.setdefault(self._part(sketch, band), []).append(number)

    def _part(self, sketch: bytes, band: int) -> bytes:
        return sketch[4 * band * self._rows : 4 * (band + 1) * self._rows]


def _shape(threshold: float, permutations: int) -> tuple[int, int]:
    """Bands and rows: most rows a band (so fewest false candidates) that find a pair at the threshold surely.

    A pair of similarity s shares a band with probability 1 − (1 − s^rows)^bands (Leskovec, Rajaraman and
    Ullman, "Mining of Massive Datasets", 3.4.2); at the threshold it is to be at least 0.99.
    """
    for rows in range(permutations, 1, -1):
        bands = permutations // rows
        if 1.0 - (1.0 - threshold**rows) ** bands >= 0.99:
            return bands, rows
    return permutations, 1


def _min_hash(permutations: int) -> MinHash:
    try:
        from datasketch import MinHash
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "Finding near duplicates needs the package datasketch.",
            hint="Install the extra 'data' from Stoker's clone: pip install '.[data]'",
        ) from error
    return MinHash(num_perm=permutations, seed=_SEED, hashfunc=_given, scheme=_SCHEME)


def _given(value: int) -> int:
    return value
