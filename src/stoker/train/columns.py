"""Batches of records become the columns that an objective takes. See docs/design/records-run.md.

What a record's fields mean to a family is said here and nowhere else; nothing here knows of ranks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor

from stoker.feed.decode_spec import AudioSpec, DecodeSpec, ImageSpec
from stoker.spec.moderation import ModerationSpec
from stoker.spec.reading import ReadingSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.vision import VisionSpec
from stoker.train.objectives.objective import UnfitBatch
from stoker.train.objectives.transcripts import number_of, pieces_of

Columns: TypeAlias = dict[str, Tensor]
RecordsSpec: TypeAlias = VisionSpec | SpeechSpec | ModerationSpec

IMAGE: Final = "image"
AUDIO: Final = "audio"
TEXT: Final = "text"
LABEL: Final = "label"
NO_LABEL: Final = "none"
"""A class of moderation that has none of the labels."""

LUMA: Final = (0.299, 0.587, 0.114)
"""Red, green and blue in a grey picture (ITU-R BT.601)."""


def decoding_of(spec: RecordsSpec, reading: ReadingSpec) -> DecodeSpec | None:
    """What a feed must decode for this model; None when it needs no files."""
    image = audio = None
    if isinstance(spec, VisionSpec):
        image = ImageSpec(spec.image_size, spec.image_size)
    elif isinstance(spec, SpeechSpec):
        audio = AudioSpec(spec.sample_rate, clip_samples(spec, reading), cut=reading.cut_clips)
    elif spec.image is not None:
        image = ImageSpec(spec.image.image_size, spec.image.image_size)
    if image is None and audio is None:
        return None
    return DecodeSpec(image, audio, processes=reading.decoders, time_limit_s=reading.file_s)


def clip_samples(spec: SpeechSpec, reading: ReadingSpec) -> int:
    """The samples of every clip, silence included."""
    return max(1, round(reading.clip_s * spec.sample_rate))


def columns_for(spec: RecordsSpec, classes: Sequence[str]) -> Callable[[Mapping[str, Any], Tensor], Columns]:
    """A function from a batch's tensors by field, and each row's number, to columns.

    `classes` are the dataset's class names, by number; empty when its labels are numbers of their own.
    Raises UnfitBatch where the class names cannot be this model's; the function, where a record cannot be.
    """
    if isinstance(spec, VisionSpec):
        _check_classes(spec, classes)
        return lambda fields, numbers: _vision(spec, fields, numbers)
    if isinstance(spec, SpeechSpec):
        exact = {symbol: number for number, symbol in enumerate(spec.symbols)}
        symbols = {**{symbol.lower(): number for symbol, number in exact.items()}, **exact}
        spoken = _spoken_of(spec, symbols, classes)
        return lambda fields, numbers: _speech(spec, symbols, spoken, fields, numbers)
    table, groups = _table_of(spec, classes)
    return lambda fields, numbers: _moderation(spec, table, groups, fields, numbers)


def _field(fields: Mapping[str, Any], name: str) -> Any:
    if name not in fields:
        found = ", ".join(sorted(each for each in fields if "." not in each)) or "none"
        raise UnfitBatch(
            f"This model needs a field {name!r} of each record; the dataset has {found}.",
            hint="Prepare the dataset with this part, or train another model on it.",
        )
    return fields[name]


def pixels_of(pictures: Tensor, channels: int) -> Tensor:
    """uint8 `[rows, 3, height, width]` to fp32 in [-1, 1] with so many channels: 1 is grey, 3 as it is."""
    scaled = pictures.float().div_(127.5).sub_(1.0)
    if channels == 3:
        return scaled
    if channels == 1:
        weights = torch.tensor(LUMA).view(1, 3, 1, 1)
        return (scaled * weights).sum(dim=1, keepdim=True)
    raise UnfitBatch(f"Pictures have 1 or 3 channels, not {channels}.", hint="Change the model's channels.")


def _check_classes(spec: VisionSpec, classes: Sequence[str]) -> None:
    if classes and not spec.masked and len(classes) != spec.classes:
        raise UnfitBatch(
            f"The dataset has {len(classes)} classes, {', '.join(classes[:8])}…; vision.classes is "
            f"{spec.classes}.",
            hint=f"Set vision.classes to {len(classes)}.",
        )


def _vision(spec: VisionSpec, fields: Mapping[str, Any], numbers: Tensor) -> Columns:
    found = {"pixels": pixels_of(_field(fields, IMAGE), spec.channels), "numbers": numbers}
    return found if spec.masked else {**found, "labels": _field(fields, LABEL).long()}


def _spoken_of(
    spec: SpeechSpec, symbols: Mapping[str, int], classes: Sequence[str]
) -> list[list[int]] | None:
    """The symbols of each class, where clips have a class and no transcript of their own."""
    return [_symbols(spec, symbols, name, f"class {name!r}") for name in classes] if classes else None


def _symbols(spec: SpeechSpec, numbers: Mapping[str, int], text: str, place: str) -> list[int]:
    pieces = pieces_of(text, spec.units)
    found = [number_of(piece, numbers) for piece in pieces]
    unknown = {piece for piece, number in zip(pieces, found, strict=True) if number is None}
    if unknown or not pieces:
        raise UnfitBatch(
            f"The transcript of {place} has {len(unknown)} symbols that speech.symbols does not have."
            if unknown
            else f"The transcript of {place} is empty.",
            hint="Add them to speech.symbols, or leave such records out in preparation.",
        )
    return [number for number in found if number is not None]


def _speech(
    spec: SpeechSpec,
    symbols: Mapping[str, int],
    spoken: list[list[int]] | None,
    fields: Mapping[str, Any],
    numbers: Tensor,
) -> Columns:
    waves, lengths = _field(fields, AUDIO), _field(fields, f"{AUDIO}.length")
    if TEXT in fields:
        values, offsets = fields[TEXT]
        if values.dtype != torch.uint8:
            raise UnfitBatch(
                "Transcripts of this dataset are tokens; a speech model spells them by speech.symbols.",
                hint='Prepare the dataset with records.text_as = "utf8".',
            )
        texts = [
            bytes(values[begin:end].tolist()).decode(errors="replace")
            for begin, end in zip(offsets.tolist(), offsets.tolist()[1:], strict=False)
        ]
        rows = [
            _symbols(spec, symbols, text, f"record {number}")
            for text, number in zip(texts, numbers.tolist(), strict=True)
        ]
    elif spoken is not None:
        rows = [spoken[label] for label in _field(fields, LABEL).tolist()]
    else:
        raise UnfitBatch(
            "Clips of this dataset have neither transcripts nor class names.",
            hint="Import clips with .txt or .label files beside them.",
        )
    counts = torch.tensor([len(row) for row in rows])
    labels = torch.zeros(len(rows), int(counts.max()), dtype=torch.int64)
    for place, row in enumerate(rows):
        labels[place, : len(row)] = torch.tensor(row)
    return {
        "waves": waves,
        "lengths": lengths.long(),
        "labels": labels,
        "label_lengths": counts,
        "numbers": numbers,
    }


def _table_of(spec: ModerationSpec, classes: Sequence[str]) -> tuple[Tensor, Tensor | None]:
    """What each class says: fp32 `[classes, labels]` of 0 and 1, and the number of its group or -1.

    A class name is labels joined by `+`, or `none`; `@` and a group may follow. Without class names a
    record's number has a bit for each label, the first the lowest.
    """
    count = len(spec.labels)
    if not classes:
        if count > 16:
            raise UnfitBatch(f"Labels as numbers have 16 bits; the model has {count} labels.")
        bits = torch.arange(1 << count).unsqueeze(1) >> torch.arange(count)
        return (bits & 1).float(), None
    table = torch.zeros(len(classes), count)
    groups = torch.full((len(classes),), -1, dtype=torch.int64)
    for number, name in enumerate(classes):
        labels, _, group = name.partition("@")
        for label in () if labels == NO_LABEL else re.split(r"\s*\+\s*", labels):
            if label not in spec.labels:
                raise UnfitBatch(
                    f"Class {name!r} of the dataset says {label!r}; moderation.labels are "
                    f"{', '.join(spec.labels)}.",
                    hint=f"A class is labels joined by '+', or '{NO_LABEL}'; '@' and a group may follow.",
                )
            table[number, spec.labels.index(label)] = 1.0
        if spec.groups and group and group not in spec.groups:
            raise UnfitBatch(
                f"Class {name!r} of the dataset says group {group!r}; moderation.groups are "
                f"{', '.join(spec.groups)}.",
                hint="Add it there, or leave moderation.groups empty.",
            )
        if group in spec.groups:
            groups[number] = spec.groups.index(group)
    return table, groups if spec.groups else None


def _moderation(
    spec: ModerationSpec,
    table: Tensor,
    groups: Tensor | None,
    fields: Mapping[str, Any],
    numbers: Tensor,
) -> Columns:
    classes = _field(fields, LABEL).long()
    if classes.numel() and not 0 <= int(classes.min()) <= int(classes.max()) < len(table):
        raise UnfitBatch(
            f"A record's label is {int(classes.max())}; {len(spec.labels)} labels have numbers below "
            f"{len(table)}, a bit for each.",
            hint="Give the model the labels that the dataset has, or import them by name.",
        )
    found: Columns = {"labels": table[classes], "numbers": numbers}
    if groups is not None:
        found["groups"] = groups[classes]
    if spec.text is not None:
        found |= _padded(_field(fields, TEXT), spec.text.sequence_tokens)
    if spec.image is not None:
        found["pixels"] = pixels_of(_field(fields, IMAGE), spec.image.channels)
    return found


def _padded(ragged: tuple[Tensor, Tensor], length: int) -> Columns:
    """The first `length` tokens of each row and which of them are there; a text without any has one, 0."""
    values, offsets = ragged
    if values.dtype == torch.uint8:
        raise UnfitBatch(
            "Texts of this dataset are UTF-8; a moderation model reads tokens.",
            hint='Prepare the dataset with records.text_as = "tokens".',
        )
    starts = offsets[:-1]
    counts = (offsets[1:] - starts).clamp(max=length)
    places = torch.arange(length)
    mask = places < counts.clamp(min=1).unsqueeze(1)
    at = (starts.unsqueeze(1) + places).clamp(max=max(0, len(values) - 1))
    inside = places < counts.unsqueeze(1)
    tokens = torch.where(inside, values[at] if len(values) else torch.zeros_like(at), torch.zeros_like(at))
    return {"tokens": tokens, "mask": mask}
