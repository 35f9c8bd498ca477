"""A model of any family under our own names: what it is in `model.json`, its tensors in safetensors.

For families that others have no form for, and for whoever goes on with Stoker's own modules; no code and no
pickle leaves with it. See docs/design/exchange.md, "Our own form".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from stoker.core.canonical import JsonValue
from stoker.core.config import from_plain
from stoker.core.errors import ConfigError
from stoker.core.result import plain
from stoker.train.exchange.errors import BadWeights, FormUnknown, WeightsUnfit
from stoker.train.exchange.folder import WeightFolder
from stoker.train.exchange.hugging_face import ForeignTensor
from stoker.train.exchange.sources import SealedSource
from stoker.train.families import FAMILIES, Sizes, family_of
from stoker.train.models.initialise import materialise

MODEL: Final = "model.json"
OWN_FORMAT: Final = "stoker model 1"


@dataclass(frozen=True, slots=True)
class OwnModel:
    """A model that was read: the module with its weights, and the names of its classes, if it has any."""

    module: nn.Module
    family: str
    vocabulary: int
    classes: tuple[str, ...]


def own_tensors(source: SealedSource) -> tuple[ForeignTensor, ...]:
    """Every tensor of the model under its own name."""
    return tuple(ForeignTensor(name, source.shape(name), name) for name in source.names())


def description(trained: object, vocabulary: int, classes: Sequence[str]) -> dict[str, JsonValue]:
    """What `model.json` says: the family, its specification, the vocabulary, the classes in order."""
    return {
        "format": OWN_FORMAT,
        "family": family_of(trained).name,
        "spec": plain(trained),
        "vocabulary": vocabulary,
        "classes": list(classes),
    }


def load_model(folder: Path) -> OwnModel:
    """The model in a folder of our own form, on the CPU, in fp32.

    Raises BadWeights, FormUnknown for another format or family, ConfigError for a specification that is none,
    and WeightsUnfit naming each tensor that is missing, extra or of another shape.
    """
    with WeightFolder.open(folder, config=MODEL) as weights:
        body = weights.config
        if body.get("format") != OWN_FORMAT:
            raise FormUnknown(
                f"{folder / MODEL} has format {ascii(body.get('format'))[:40]}; {OWN_FORMAT!r} is read here.",
                hint="Use the Stoker that wrote it.",
            )
        family = FAMILIES.get(str(body.get("family")))
        if family is None:
            raise FormUnknown(
                f"{folder / MODEL} is of the unknown family {ascii(body.get('family'))[:40]}.",
                hint=f"Known are: {', '.join(FAMILIES)}.",
            )
        vocabulary, classes = _sizes(body, folder / MODEL)
        spec = from_plain(family.spec, _object(body.get("spec"), folder / MODEL), str(folder / MODEL))
        model = materialise(family.build(spec, Sizes(vocabulary)), 0, torch.device("cpu"))
        _fill(model, weights)
    return OwnModel(model, family.name, vocabulary, classes)


def _fill(model: nn.Module, weights: WeightFolder) -> None:
    state = model.state_dict()
    problems = [f"{name[:80]!a} is extra" for name in sorted(set(weights.tensors) - set(state))]
    for name, value in state.items():
        stored = weights.tensors.get(name)
        if stored is None:
            problems.append(f"{name!r} is missing")
        elif stored.shape != tuple(value.shape):
            problems.append(f"{name!r} is {list(stored.shape)}, where {list(value.shape)} is expected")
    if problems:
        raise WeightsUnfit(
            f"{weights.path} does not hold this model: {'; '.join(problems[:5])}.",
            hint="Nothing was loaded. Take the folder as it was exported.",
        )
    with torch.no_grad():
        for name, value in state.items():
            value.copy_(weights.read(name, [0] * value.dim(), value.shape))


def _sizes(body: Mapping[str, Any], place: Path) -> tuple[int, tuple[str, ...]]:
    vocabulary, classes = body.get("vocabulary"), body.get("classes")
    if not isinstance(vocabulary, int) or not isinstance(classes, list):
        raise BadWeights(f"{place} has no vocabulary, or no classes.", hint="Fetch it again.")
    return vocabulary, tuple(map(str, classes))


def _object(value: Any, place: Path) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{place} holds no specification.", hint="Fetch it again.")
    return value
