"""docs/design/spec.md names every key of a run file."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from stoker.spec.layout import LayoutSpec
from stoker.spec.model import ModelSpec
from stoker.spec.moderation import ImageTowerSpec, ModerationSpec, TextTowerSpec
from stoker.spec.moe import MoeSpec
from stoker.spec.rope import RopeScalingSpec
from stoker.spec.run import EvaluateSpec, LaunchSpec, RunSpec, TrainSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.vision import VisionSpec

PAGE = (Path(__file__).parents[2] / "docs/design/spec.md").read_text()


@pytest.mark.parametrize(
    "spec",
    [
        RunSpec,
        ModelSpec,
        MoeSpec,
        RopeScalingSpec,
        VisionSpec,
        SpeechSpec,
        ModerationSpec,
        TextTowerSpec,
        ImageTowerSpec,
        TrainSpec,
        LaunchSpec,
        LayoutSpec,
        EvaluateSpec,
    ],
    ids=lambda spec: spec.__name__,
)
def test_every_key_is_on_the_page(spec: type) -> None:
    sections = {
        "model",
        "vision",
        "speech",
        "moderation",
        "train",
        "launch",
        "layout",
        "evaluate",
        "reading",
        "watch",
    }
    for field in dataclasses.fields(spec):
        shown = f"`[{field.name}]`" if field.name in sections else f"`{field.name}`"
        assert shown in PAGE, field.name
