"""The families of models that a run file can name: one line each. See docs/design/families.md.

A family is a section of the run file, a specification, a way to build the model on the meta device, and what
it learns. To add one: a specification in `stoker.spec`, a module in `stoker.train.models`, an objective in
`stoker.train.objectives`, and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from torch import nn

from stoker.core.canonical import JsonValue
from stoker.core.result import plain
from stoker.spec.model import ModelSpec
from stoker.spec.moderation import ModerationSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.vision import VisionObjective, VisionSpec
from stoker.train.models.decoder import build_model
from stoker.train.models.moderation import build_moderation
from stoker.train.models.speech import build_speech
from stoker.train.models.vision import build_vision
from stoker.train.objectives.moderation import MultiLabel
from stoker.train.objectives.next_token import NextToken
from stoker.train.objectives.objective import Objective
from stoker.train.objectives.speech import Ctc
from stoker.train.objectives.vision import Classify, MaskedPatches

Spec = TypeVar("Spec")


@dataclass(frozen=True, slots=True)
class Sizes:
    """What only the dataset knows of a model's shape. `vocabulary`: the tokens of its tokenizer, or 0."""

    vocabulary: int = 0


@dataclass(frozen=True, slots=True)
class Family(Generic[Spec]):
    """One family. `name` is its section in the run file.

    `build` gives the model on the meta device: `spec`, `blocks` (an nn.ModuleList: the units of sharding,
    recompute, compile and pipelines) and `residual_outputs` are its attributes.
    """

    name: str
    spec: type[Spec]
    build: Callable[[Spec, Sizes], nn.Module]
    objective: Callable[[Spec, Sizes], Objective]


def _vision_objective(spec: VisionSpec, sizes: Sizes) -> Objective:
    return MaskedPatches(spec) if spec.objective is VisionObjective.MASKED else Classify(spec)


FAMILIES: Final[Mapping[str, Family[Any]]] = {
    family.name: family
    for family in (
        Family(
            "model",
            ModelSpec,
            lambda spec, sizes: build_model(spec, sizes.vocabulary),
            lambda spec, sizes: NextToken(sizes.vocabulary),
        ),
        Family("vision", VisionSpec, lambda spec, sizes: build_vision(spec), _vision_objective),
        Family("speech", SpeechSpec, lambda spec, sizes: build_speech(spec), lambda spec, sizes: Ctc(spec)),
        Family(
            "moderation",
            ModerationSpec,
            lambda spec, sizes: build_moderation(spec, sizes.vocabulary),
            lambda spec, sizes: MultiLabel(spec, sizes.vocabulary),
        ),
    )
}
"""Every family by its name."""


def family_of(spec: object) -> Family[Any]:
    """The family whose specification `spec` is."""
    return next(family for family in FAMILIES.values() if type(spec) is family.spec)


def shape_of(spec: object, sizes: Sizes) -> JsonValue:
    """What a checkpoint is of, as JSON: two models with the same shape have the same tensors."""
    shape: JsonValue = spec.shape() if isinstance(spec, ModelSpec) else plain(spec)
    return {family_of(spec).name: shape, "vocabulary": sizes.vocabulary}
