"""What a record's fields mean to each family."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from stoker.feed.decode_spec import AudioSpec, ImageSpec
from stoker.spec.moderation import ImageTowerSpec, ModerationSpec, TextTowerSpec
from stoker.spec.reading import ReadingSpec
from stoker.spec.speech import SpeechSpec, Units
from stoker.spec.vision import VisionObjective, VisionSpec
from stoker.train.columns import columns_for, decoding_of, pixels_of
from stoker.train.objectives.moderation import MultiLabel
from stoker.train.objectives.objective import UnfitBatch
from stoker.train.objectives.speech import Ctc
from stoker.train.objectives.vision import Classify

NUMBERS = torch.tensor([5, 9])
PICTURES = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 3, 28, 28)


def ragged(*rows: bytes | list[int]) -> tuple[Tensor, Tensor]:
    offsets = torch.tensor([0, *torch.tensor([len(row) for row in rows]).cumsum(0).tolist()])
    kind = torch.uint8 if isinstance(rows[0], bytes) else torch.int64
    return torch.tensor([each for row in rows for each in row], dtype=kind), offsets


def test_pictures_are_grey_or_coloured_between_minus_one_and_one() -> None:
    one = torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
    one[:, 0] = 255  # red
    assert pixels_of(one, 3)[0, :, 0, 0].tolist() == [1.0, -1.0, -1.0]
    assert pixels_of(one, 1).shape == (1, 1, 2, 2)
    assert pixels_of(one, 1)[0, 0, 0, 0].item() == pytest.approx(0.299 - 0.587 - 0.114)
    with pytest.raises(UnfitBatch, match="1 or 3 channels, not 2"):
        pixels_of(one, 2)


def test_a_picture_with_its_class_is_what_the_objective_takes() -> None:
    spec = VisionSpec(classes=3)
    found = columns_for(spec, ["a", "b", "c"])({"image": PICTURES, "label": torch.tensor([2, 0])}, NUMBERS)
    Classify(spec).check(found)
    assert found["labels"].tolist() == [2, 0]
    assert found["pixels"].shape == (2, 1, 28, 28)
    masked = columns_for(VisionSpec(objective=VisionObjective.MASKED), [])({"image": PICTURES}, NUMBERS)
    assert masked["numbers"].tolist() == [5, 9]


def test_a_number_of_classes_that_is_not_the_datasets_is_refused_with_the_right_one() -> None:
    with pytest.raises(UnfitBatch, match=r"has 2 classes, a, b…; vision.classes is 10") as refused:
        columns_for(VisionSpec(), ["a", "b"])
    assert refused.value.hint == "Set vision.classes to 2."


def test_a_field_that_is_not_there_is_named_beside_those_that_are() -> None:
    with pytest.raises(UnfitBatch, match="needs a field 'image' of each record; the dataset has label, text"):
        columns_for(VisionSpec(), [])({"label": NUMBERS, "text": ragged(b"x"), "record.ok": NUMBERS}, NUMBERS)


def clips(**more: Any) -> dict[str, Any]:
    return {"audio": torch.zeros(2, 16_000), "audio.length": torch.tensor([16_000, 9_000]), **more}


def test_transcripts_are_spelt_by_the_models_symbols() -> None:
    spec = SpeechSpec()
    found = columns_for(spec, [])(clips(text=ragged(b"Ab  c\n", b"it's")), NUMBERS)
    Ctc(spec).check(found)
    spelt = [spec.symbols[each] for each in found["labels"][0, :4].tolist()]
    assert (spelt, found["label_lengths"].tolist()) == (["a", "b", " ", "c"], [4, 4])


def test_a_class_is_a_keyword_where_clips_have_no_transcript() -> None:
    spec = SpeechSpec(symbols=("no", "yes"), units=Units.WORDS)
    found = columns_for(spec, ["yes", "no"])(clips(label=torch.tensor([0, 1])), NUMBERS)
    Ctc(spec).check(found)
    assert found["labels"].tolist() == [[1], [0]]


def test_what_cannot_be_spelt_is_refused_without_showing_it() -> None:
    spec = SpeechSpec()
    with pytest.raises(
        UnfitBatch, match=r"transcript of record 9 has 2 symbols that speech\.symbols"
    ) as refused:
        columns_for(spec, [])(clips(text=ragged(b"ok", b"\xc3\xa4#ab")), NUMBERS)
    assert "ä" not in refused.value.message
    with pytest.raises(UnfitBatch, match="transcript of record 5 is empty"):
        columns_for(spec, [])(clips(text=ragged(b" ", b"b")), NUMBERS)
    with pytest.raises(UnfitBatch, match=r"neither transcripts nor class names"):
        columns_for(spec, [])(clips(label=NUMBERS), NUMBERS)
    with pytest.raises(UnfitBatch, match="Transcripts of this dataset are tokens"):
        columns_for(spec, [])(clips(text=ragged([1], [2])), NUMBERS)


MODERATION = ModerationSpec(
    labels=("spam", "phish"),
    text=TextTowerSpec(sequence_tokens=4),
    image=ImageTowerSpec(),
    groups=("en", "de"),
)


def test_a_class_of_moderation_is_its_labels_and_perhaps_a_group() -> None:
    classes = ["none", "none@de", "phish+spam@en", "spam"]
    fields = {"label": torch.tensor([2, 1]), "text": ragged([7, 8, 9, 10, 11], []), "image": PICTURES}
    found = columns_for(MODERATION, classes)(fields, NUMBERS)
    MultiLabel(MODERATION, 12).check(found)
    assert found["labels"].tolist() == [[1.0, 1.0], [0.0, 0.0]]
    assert found["groups"].tolist() == [0, 1]
    assert found["tokens"].tolist() == [[7, 8, 9, 10], [0, 0, 0, 0]]
    assert found["mask"].tolist() == [[True] * 4, [True, False, False, False]]


def test_numbers_have_a_bit_for_each_label() -> None:
    spec = ModerationSpec(labels=("spam", "phish"), text=TextTowerSpec(sequence_tokens=2))
    fields = {"label": torch.tensor([3, 2]), "text": ragged([1], [2])}
    assert columns_for(spec, [])(fields, NUMBERS)["labels"].tolist() == [[1.0, 1.0], [0.0, 1.0]]
    with pytest.raises(UnfitBatch, match="A record's label is 4; 2 labels have numbers below 4"):
        columns_for(spec, [])({**fields, "label": torch.tensor([4, 0])}, NUMBERS)


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        (["ham", "spam"], "Class 'ham' of the dataset says 'ham'; moderation.labels are spam, phish"),
        (["spam@fr"], "Class 'spam@fr' of the dataset says group 'fr'; moderation.groups are en, de"),
    ],
)
def test_classes_that_the_model_does_not_know_are_refused(classes: list[str], said: str) -> None:
    with pytest.raises(UnfitBatch, match=said):
        columns_for(MODERATION, classes)


def test_what_a_feed_decodes_follows_from_the_model() -> None:
    reading = ReadingSpec(clip_s=0.5, cut_clips=True, decoders=3)
    vision = decoding_of(VisionSpec(image_size=32, patch=4), reading)
    assert vision is not None
    assert (vision.image, vision.audio, vision.processes) == (ImageSpec(32, 32), None, 3)
    speech = decoding_of(SpeechSpec(sample_rate=8000), reading)
    assert speech is not None
    assert speech.audio == AudioSpec(8000, 4000, cut=True)
    assert decoding_of(ModerationSpec(text=TextTowerSpec()), reading) is None
    assert decoding_of(MODERATION, reading) is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"clip_s": 0.0}, "clip_s is 0.0; it must be 0.01 to 3600 seconds."),
        ({"decoders": 0}, "decoders is 0; it must be 1 to 512."),
        ({"file_s": 0.0}, "file_s is 0.0; it must be 0.1 to 3600 seconds."),
    ],
)
def test_a_reading_that_cannot_be_is_refused(change: dict[str, Any], said: str) -> None:
    assert list(ReadingSpec(**change).problems()) == [said]
