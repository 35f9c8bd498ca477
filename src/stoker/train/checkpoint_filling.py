"""From one part of a checkpoint to the tensors that want its pieces. See docs/design/train.md.

A part's layout follows from the record, so where its pieces are wanted whole they are decrypted to where
they belong, without a copy; nothing is parsed for that, and when every byte has been verified the part's own
header must be the expected one. Otherwise the part is opened into a room of its own, and parsed when all of
it is verified.
"""

from __future__ import annotations

import math
import mmap
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.distributed.checkpoint.planner import ReadItem

from stoker.train.checkpoint_errors import BadCheckpointPart, CheckpointUnfit
from stoker.train.checkpoint_metadata import chunk_name
from stoker.train.commit_record import Part
from stoker.train.run_objects import RunObjects, number_of
from stoker.train.tensor_file import (
    Described,
    FileLayout,
    TensorEntry,
    bytes_of,
    layout_of,
    parse_header,
    tensor_at,
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A piece of a part, and this rank's memory that it goes to."""

    item: ReadItem
    target: Tensor

    @property
    def name(self) -> str:
        """Its name in the part."""
        return chunk_name(self.item.storage_index)


class Room(threading.local):
    """Memory of a thread that opens parts, for what has no place of its own; used again for each part."""

    def __init__(self) -> None:
        self._memory = memoryview(b"")

    def of(self, length: int) -> memoryview:
        """So many bytes, which the next call may give again.

        They are there already: touched page by page they would cost as much as a copy.
        """
        if len(self._memory) < length:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_POPULATE", 0)
            self._memory = memoryview(mmap.mmap(-1, length, flags=flags))
        return self._memory[:length]


def fill(
    objects: RunObjects,
    part: Part,
    version: str,
    expected: Mapping[str, Described],
    wanted: Sequence[Wanted],
    room: Room,
) -> None:
    """Verify all of `part`, which must hold what is `expected`, and fill what is `wanted` of it.

    Raises what RunObjects.read_part raises, BadCheckpointPart when the part holds something else, and
    CheckpointUnfit when a target is of another type or shape. After an error targets hold anything.
    """
    layout = layout_of(expected)
    places = _whole_places(expected, wanted)
    number = number_of(part.key)
    if places is not None and layout.file_bytes == part.plaintext_bytes:
        found = bytearray(len(layout.header))
        targets = _in_order(memoryview(found), layout, places, expected, room)
        objects.read_part_into(part, version, number, targets)
        if found == layout.header:
            return
    # Something is wanted in pieces, or not in this memory; or the part is not as this writer would write it.
    data = objects.read_part(part, version, number, room.of(part.plaintext_bytes))
    entries, start = parse_header(data, part.key)
    _compare(entries, expected, part.key)
    for each in wanted:
        _copy(each, tensor_at(data, start, entries[each.name]), part.key)


def _whole_places(
    expected: Mapping[str, Described], wanted: Sequence[Wanted]
) -> Mapping[str, memoryview] | None:
    """The memory of each wanted piece; None when one of them is not wanted whole, as it lies in the part."""
    places: dict[str, memoryview] = {}
    for each in wanted:
        dtype, shape = expected[each.name]
        target = each.target
        if (
            tuple(each.item.lengths) != shape
            or tuple(target.shape) != shape
            or target.dtype != dtype
            or target.device.type != "cpu"
            or not target.is_contiguous()
            or each.name in places
        ):
            return None
        if target.numel():
            places[each.name] = bytes_of(target)
    return places


def _in_order(
    header: memoryview,
    layout: FileLayout,
    places: Mapping[str, memoryview],
    expected: Mapping[str, Described],
    room: Room,
) -> Iterator[memoryview]:
    """Where the part's bytes go: its header, then each piece; into the room what nobody wants here."""
    yield header
    for name in layout.names:
        dtype, shape = expected[name]
        length = math.prod(shape) * dtype.itemsize
        if length:
            yield places[name] if name in places else room.of(length)


def _compare(entries: Mapping[str, TensorEntry], expected: Mapping[str, Described], place: str) -> None:
    """The part must hold exactly the pieces that the record says, each of its type and size."""
    found = {name: (entry.dtype, entry.shape) for name, entry in entries.items()}
    if found != expected:
        odd = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        raise BadCheckpointPart(f"{place}: {odd[0][:80]!a} is not as the record says.")


def _copy(wanted: Wanted, piece: Tensor, place: str) -> None:
    item, target = wanted.item, wanted.target
    for dimension, (offset, length) in enumerate(zip(item.storage_offsets, item.lengths, strict=True)):
        piece = piece.narrow(dimension, offset, length)
    if target.dtype != piece.dtype or target.shape != piece.shape:
        raise CheckpointUnfit(
            f"{place}: {item.storage_index.fqn!r} is {piece.dtype} {list(piece.shape)}, "
            f"the run's is {target.dtype} {list(target.shape)}."
        )
    target.copy_(piece)
