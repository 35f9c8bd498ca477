"""The parts of a scan that look at a part: names near hits, the audit sample, planted canaries.

And the sentences that say what a scan does not cover. See docs/design/measured.md.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from stoker.core.progress import Progress
from stoker.intake import names_model
from stoker.intake.audit_sample import (
    MARGIN_BYTES,
    NEAR_SPANS,
    WINDOW_BYTES,
    Looked,
    LookTask,
    Place,
    draw,
    look,
    near_hits,
    rank,
    windows_of,
)
from stoker.intake.bounded import Bounded, Lost
from stoker.intake.canaries.recall import HOST_BYTES, PlantTask, Tally, plant
from stoker.intake.detect.scan import Finding
from stoker.intake.errors import WorkerLost
from stoker.intake.measures import Measures
from stoker.intake.proportion import share
from stoker.intake.report_format import Left, MediaSeen, NamesSeen
from stoker.intake.source_index import SourceFile
from stoker.intake.source_reader import SourceReader
from stoker.spec.kinds import Kind

HOSTS: Final = 256
"""From so many places of the source canaries borrow the text around them."""

_PLANT_BATCH: Final = 200
_SEEN: Final = tuple(sorted(names_model.SEEN_KINDS))
Hold = Callable[[str, int, str], None]


def names_and_left(
    reader: SourceReader,
    texts: Sequence[SourceFile],
    hits: Mapping[int, tuple[Finding, ...]],
    processes: int,
    measures: Measures,
    progress: Progress,
    hold_back: Hold,
) -> tuple[NamesSeen | None, Left | None]:
    """What the name model sees near hits, and in the audit sample. Raises MissingExtra.

    A file on which the model crashes, or takes too long, is held back, and its pieces count as ones with
    something in them: what cannot be looked into is not clean.
    """
    if not measures.names:
        return None, None
    names_model.require()
    seed = reader.record.manifest_root
    sizes = [file.size_bytes for file in texts]
    every = [place for number, found in hits.items() for place in near_hits(number, sizes[number], found)]
    near = heapq.nsmallest(NEAR_SPANS, every, key=lambda place: rank(place, seed))
    drawn = draw(sizes, measures.sample, seed)
    seen_near: list[Mapping[Kind, int] | None] = []
    seen_drawn: list[Mapping[Kind, int] | None] = []
    with (
        Bounded(
            processes,
            _start_looking,
            None,
            limit_s=lambda task: measures.limit_s * (1 + (len(task.near) + len(task.drawn)) / 64),
        ) as workers,
        progress.task(f"names in {reader.record.name}", len(near) + len(drawn), "pieces") as task,
    ):
        for done, looked in workers.as_done(_slices(reader, texts, near, drawn)):
            if isinstance(looked, Lost):
                hold_back(texts[done.file].path, 1, looked.why.value)
                seen_near += [None] * len(done.near)
                seen_drawn += [None] * len(done.drawn)
            else:
                seen_near += looked.near
                seen_drawn += looked.drawn
            task.advance(len(done.near) + len(done.drawn))
    names = NamesSeen(names_model.MODEL, len(every), len(near), _by_kind(seen_near), share(*_with(seen_near)))
    if not measures.sample:
        return names, None
    by_kind = {
        kind.value: share(sum(each is None or kind in each for each in seen_drawn), len(seen_drawn))
        for kind in _SEEN
    }
    windows = share(*_with(seen_drawn))
    return names, Left(names_model.MODEL, WINDOW_BYTES, windows_of(sizes), windows, by_kind)


def _start_looking(_: object) -> Callable[[LookTask], Looked]:
    names_model.load()  # before time counts
    return look


def _with(looked: Sequence[Mapping[Kind, int] | None]) -> tuple[int, int]:
    return sum(each is None or bool(each) for each in looked), len(looked)


def _by_kind(looked: Sequence[Mapping[Kind, int] | None]) -> dict[str, int]:
    return {kind.value: sum(each.get(kind, 0) for each in looked if each) for kind in _SEEN}


def _slices(
    reader: SourceReader, texts: Sequence[SourceFile], near: Sequence[Place], drawn: Sequence[Place]
) -> Iterator[LookTask]:
    """A task for every piece of text, with what lies around it; files in order, so chunks open once."""
    wanted = sorted([*((place, 0) for place in near), *((place, 1) for place in drawn)])
    number, data = -1, b""
    for place, is_drawn in wanted:
        if place.file != number:
            number, data = place.file, bytes(reader.read(texts[place.file]))
        start, end = max(0, place.start - MARGIN_BYTES), min(len(data), place.end + MARGIN_BYTES)
        pieces = (place,)
        yield LookTask(number, start, data[start:end], () if is_drawn else pieces, pieces if is_drawn else ())


def recalled(
    reader: SourceReader,
    texts: Sequence[SourceFile],
    processes: int,
    measures: Measures,
    progress: Progress,
) -> Tally:
    """Plant identities in pieces of the source and count what is found. Raises WorkerLost.

    Values that a worker was lost on count as not found, which is what they are.
    """
    total = Tally()
    if not measures.canaries:
        return total
    seed = hashlib.sha256(b"canaries\0" + reader.record.manifest_root.encode()).digest()
    hosts = tuple(_hosts(reader, texts, seed.hex()))
    tasks = (
        PlantTask(first, min(first + _PLANT_BATCH, measures.canaries), seed, hosts)
        for first in range(0, measures.canaries, _PLANT_BATCH)
    )
    with (
        Bounded(processes, _start_planting, None, limit_s=lambda _: measures.limit_s) as workers,
        progress.task(f"canaries in {reader.record.name}", measures.canaries, "identities") as task,
    ):
        for done, told in workers.as_done(tasks):
            if isinstance(told, Lost):
                raise WorkerLost(
                    f"Scanning planted identities {done.first} to {done.last} failed ({told.why.value}).",
                    hint="Their recall would be unknown. Run it again; a smaller --canaries may do.",
                )
            total.merge(told)
            task.advance(done.last - done.first)
    return total


def _start_planting(_: object) -> Callable[[PlantTask], Tally]:
    return plant


def _hosts(reader: SourceReader, texts: Sequence[SourceFile], seed: str) -> Iterator[bytes]:
    """Pieces of the source's own text, drawn like the audit sample."""
    for place in draw([file.size_bytes for file in texts], HOSTS, seed):
        data = bytes(reader.read(texts[place.file]))
        middle = (place.start + place.end) // 2
        yield data[max(0, middle - HOST_BYTES) : middle + HOST_BYTES]


def not_covered(
    measures: Measures,
    media: Mapping[str, int],
    quarantined: Mapping[str, int],
    seen: Mapping[str, MediaSeen],
) -> tuple[str, ...]:
    """What this scan says nothing about, in sentences for the reviewer."""
    said = []
    held = sum(quarantined.values())
    if held:
        said.append(f"{held:,} texts were held back: a recogniser crashed or took too long on each.")
    if media.get("image"):
        said.append(
            f"What {media['image']:,} pictures show was not looked into: no text in them is read, and nobody "
            "is recognised; their paths and metadata were scanned."
        )
        pictures = seen.get("image", MediaSeen())
        if pictures.looked_for_faces < pictures.files:
            said.append(
                f"{pictures.files - pictures.looked_for_faces:,} pictures were not searched for faces."
            )
        if pictures.looked_for_faces:
            said.append("A face that is small, turned away or covered may not have been found.")
    if media.get("audio"):
        said.append(
            f"What is said in {media['audio']:,} clips was not listened to; their transcripts, where the "
            "source has them, were scanned as texts, and their paths and metadata too."
        )
    stuck = sum(each.not_stripped for each in seen.values())
    if stuck:
        said.append(
            f"The metadata of {stuck:,} pictures or clips could not be read; they cannot be prepared."
        )
    if measures.names:
        said.append(
            f"The name model ({names_model.MODEL}) knows English and looked at pieces of the text only; what "
            "it does not see either is counted nowhere."
        )
    else:
        said.append("No name model was run, so nothing is said about names beyond lists and context.")
    said.append(
        "Preparing treats what only the name model sees where the policy says name_model = true, not else."
    )
    if not measures.sample:
        said.append("No audit sample was drawn, so nothing is said about how much is left.")
    if measures.canaries:
        said.append(
            "Recall was measured on planted people of ten countries in nine languages, in Latin letters; of "
            "other languages and scripts nothing is known."
        )
    else:
        said.append("No canaries were planted, so the recall of this scan on this source is not known.")
    return tuple(said)
