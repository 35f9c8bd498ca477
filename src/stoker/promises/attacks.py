"""Ways to present other bytes than those that were sealed, and whether a reader falls for one.

An attack changes what is read, never what is stored, and only the chunk that it touches is opened: so it
costs the same for an object of any size. See docs/design/promises.md, "Attacks".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from stoker.core.errors import StokerError
from stoker.promises.promise import Check
from stoker.store.header import StreamHeader
from stoker.store.payload import ChunkGeometry
from stoker.store.ranges import RangeSource
from stoker.store.reader import StreamReader


@dataclass(frozen=True, slots=True)
class Changed:
    """An object as an attacker presents it: `patches` are bytes put over those at an offset."""

    original: RangeSource
    length: int
    patches: tuple[tuple[int, bytes], ...] = ()

    def size(self) -> int:
        return self.length

    def read(self, start: int, length: int) -> bytearray:
        data = bytearray(self.original.read(start, length))
        for place, patch in self.patches:
            begin, end = max(place, start), min(place + len(patch), start + length)
            if begin < end:
                data[begin - start : end - start] = patch[begin - place : end - place]
        return data


@dataclass(frozen=True, slots=True)
class Attack:
    """What is presented, and the chunk whose reading must be refused unless opening already is."""

    name: str
    presented: RangeSource
    chunk: int


def attacks_on(sound: RangeSource, header: StreamHeader) -> Iterator[Attack]:
    """Flips through header and payload, cuts, and two chunks that changed places."""
    head, size, chunk_bytes = len(header.encoded), sound.size(), 1 << header.chunk_log2
    places = {0, 4, head // 2, head - 1, head, head + 20, head + 40, (head + size) // 2, size - 1}
    for place in sorted(place for place in places if place < size):
        flipped = bytes([bytes(sound.read(place, 1))[0] ^ 0x01])
        chunk = max(0, place - head) // chunk_bytes
        yield Attack(f"byte {place} changed", Changed(sound, size, ((place, flipped),)), chunk)
    yield Attack("last byte cut", Changed(sound, size - 1), 0)
    last = (size - head - 1) // chunk_bytes
    if last > 0:
        yield Attack("cut at a chunk's border", Changed(sound, head + last * chunk_bytes), 0)
    if last > 2:
        first, second = head + chunk_bytes, head + 2 * chunk_bytes
        swap = (
            (first, bytes(sound.read(second, chunk_bytes))),
            (second, bytes(sound.read(first, chunk_bytes))),
        )
        yield Attack("two chunks swapped", Changed(sound, size, swap), 1)


def attacked(
    what: str, sound: RangeSource, header: StreamHeader, opening: Callable[[RangeSource], StreamReader]
) -> Check:
    """Every attack on the object `sound`, and the unchanged one, which must open."""
    geometry = ChunkGeometry(1 << header.chunk_log2)
    if geometry.plaintext_bytes(sound.size() - len(header.encoded)) == 0:
        return Check(f"changes to {what}", True, "it is empty, so no byte of it can be another")
    tried = list(attacks_on(sound, header))
    accepted = [each.name for each in tried if accepts(opening, each)]
    refused = refusal(opening, Attack("nothing", sound, 0))
    if refused is not None:
        accepted.append(f"the unchanged stream was refused, so refusals prove nothing: {refused}")
    seen = "; ".join(accepted) or "each refused, the unchanged one opens"
    return Check(f"{len(tried)} changes to {what}", not accepted, seen)


def accepts(opening: Callable[[RangeSource], StreamReader], attack: Attack) -> bool:
    """Whether the reader hands on bytes after the attack."""
    return refusal(opening, attack) is None


def refusal(opening: Callable[[RangeSource], StreamReader], attack: Attack) -> str | None:
    """What the reader says when it is given what the attack presents; None when it reads on."""
    try:
        reader = opening(attack.presented)
        geometry = reader.geometry
        start = geometry.plain_start(attack.chunk)
        reader.read(start, geometry.plain_length(attack.chunk, reader.plaintext_bytes))
    except StokerError as error:
        return error.message
    return None
