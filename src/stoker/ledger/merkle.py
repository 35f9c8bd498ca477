"""The Merkle tree of RFC 6962 section 2 (the same as RFC 9162 section 2): pure arithmetic over hashes.

A node is named by `(level, offset)`: it covers the leaves from `offset << level` up to, and without,
`(offset + 1) << level`, and it is stored once it is complete. See docs/design/ledger.md, "The tree".
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

HASH_BYTES: Final = 32
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


class NodeName(NamedTuple):
    """The place of a complete subtree."""

    level: int
    offset: int


NodeLookup = Callable[[NodeName], bytes]
"""Gives the hash of a complete subtree."""


def leaf_hash(entry: bytes) -> bytes:
    """SHA-256(0x00 ‖ entry), RFC 6962 section 2.1."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 ‖ left ‖ right), RFC 6962 section 2.1."""
    return hashlib.sha256(b"\x01" + left + right).digest()


def covering(start: int, end: int) -> list[NodeName]:
    """The fewest complete subtrees that cover the leaves `start` to `end`, left to right.

    `start` must be a multiple of the largest power of two not above `end - start`, as it is for every range
    that the proofs of RFC 6962 speak of.
    """
    names: list[NodeName] = []
    while start < end:
        level = (end - start).bit_length() - 1
        names.append(NodeName(level, start >> level))
        start += 1 << level
    return names


def fold(hashes: Sequence[bytes]) -> bytes:
    """The root over subtrees of falling size, left to right; the empty tree's root for none."""
    if not hashes:
        return EMPTY_ROOT
    root = hashes[-1]
    for left in reversed(hashes[:-1]):
        root = node_hash(left, root)
    return root


def range_root(start: int, end: int, lookup: NodeLookup) -> bytes:
    """The hash MTH(D[start:end]) from stored subtrees."""
    return fold([lookup(name) for name in covering(start, end)])


@dataclass(slots=True)
class Frontier:
    """The complete subtrees of a tree of `size` leaves, largest first: all that appending needs."""

    size: int = 0
    hashes: list[bytes] = field(default_factory=list)

    def names(self) -> list[NodeName]:
        """The places of `hashes`."""
        return covering(0, self.size)

    def append(self, leaf: bytes) -> list[tuple[NodeName, bytes]]:
        """Add a leaf hash; returns the subtrees that it completed, the leaf itself first. O(log size)."""
        index = self.size
        current = leaf
        level = 0
        made = [(NodeName(0, index), current)]
        while index & 1:
            current = node_hash(self.hashes.pop(), current)
            index >>= 1
            level += 1
            made.append((NodeName(level, index), current))
        self.hashes.append(current)
        self.size += 1
        return made

    def root(self) -> bytes:
        """The root of the whole tree."""
        return fold(self.hashes)


def inclusion_proof(index: int, size: int, lookup: NodeLookup) -> tuple[bytes, ...]:
    """PATH(index, D[size]) of RFC 6962 section 2.1.1. Raises ValueError unless 0 <= index < size."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(range_root(middle, end, lookup))
            end = middle
        else:
            path.append(range_root(start, middle, lookup))
            start = middle
    return tuple(reversed(path))


def consistency_proof(old: int, new: int, lookup: NodeLookup) -> tuple[bytes, ...]:
    """PROOF(old, D[new]) of RFC 6962 section 2.1.2. Raises ValueError unless 0 < old <= new."""
    if not 0 < old <= new:
        raise ValueError(f"there is no consistency proof from {old} to {new} leaves")
    path: list[bytes] = []
    start, end = 0, new
    whole = True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(range_root(middle, end, lookup))
            end = middle
        else:
            path.append(range_root(start, middle, lookup))
            start = middle
            whole = False
    if not whole:
        path.append(range_root(start, end, lookup))
    return tuple(reversed(path))


def inclusion_holds(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> bool:
    """Whether `proof` leads from the leaf hash at `index` to `root` of `size` leaves (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    position, last = index, size - 1
    current = leaf
    for step in proof:
        if last == 0:
            return False
        if position & 1 or position == last:
            current = node_hash(step, current)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            current = node_hash(current, step)
        position >>= 1
        last >>= 1
    return last == 0 and hmac.compare_digest(current, root)


def consistency_holds(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Whether `proof` shows that `new_root` only appended to `old_root` (RFC 9162, 2.1.4.2).

    The empty tree is consistent with every tree, by an empty proof.
    """
    if not 0 <= old <= new:
        return False
    if old == 0:
        return not proof and hmac.compare_digest(old_root, EMPTY_ROOT)
    if old == new:
        return not proof and hmac.compare_digest(old_root, new_root)
    steps = list(proof)
    if old & (old - 1) == 0:
        steps.insert(0, old_root)
    if not steps:
        return False
    position, last = old - 1, new - 1
    while position & 1:
        position >>= 1
        last >>= 1
    from_old = from_new = steps[0]
    for step in steps[1:]:
        if last == 0:
            return False
        if position & 1 or position == last:
            from_old = node_hash(step, from_old)
            from_new = node_hash(step, from_new)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            from_new = node_hash(from_new, step)
        position >>= 1
        last >>= 1
    return last == 0 and hmac.compare_digest(from_old, old_root) and hmac.compare_digest(from_new, new_root)


def _split(leaves: int) -> int:
    """The largest power of two that is smaller than `leaves`."""
    return 1 << ((leaves - 1).bit_length() - 1)
