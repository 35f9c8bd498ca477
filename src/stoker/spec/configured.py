"""How a run file names a configuration: its shape stands below what the file says. See spec.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from stoker.core.config import Layer, override_layer
from stoker.core.errors import ConfigError
from stoker.core.result import plain
from stoker.spec.configurations import CONFIGURATIONS, configuration
from stoker.spec.model import ModelSpec
from stoker.spec.moderation import ModerationSpec
from stoker.spec.speech import SpeechSpec
from stoker.spec.vision import VisionSpec


def under_layers(layers: Sequence[Layer], overrides: Sequence[str] = ()) -> list[Layer]:
    """The layers of a run file, and below them the configuration that one of them, or an override, names.

    Raises UnknownConfiguration, and ConfigError when the name is no text.
    """
    named = [*layers, override_layer(overrides)]
    places = [layer for layer in named if layer.table.get("configuration")]
    if not places:
        return list(layers)
    name = places[-1].table["configuration"]
    if not isinstance(name, str):
        raise ConfigError(
            f"{places[-1].name}: configuration: expected text in quotes, found {name!r}.",
            hint=f"There are {', '.join(CONFIGURATIONS)}.",
        )
    spec = configuration(name).spec
    below = Layer(f"configuration {name}", {_SECTIONS[type(spec)]: plain(spec)})
    return [below, *layers]


_SECTIONS: Final[Mapping[type, str]] = {
    ModelSpec: "model",
    VisionSpec: "vision",
    SpeechSpec: "speech",
    ModerationSpec: "moderation",
}
