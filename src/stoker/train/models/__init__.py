"""Models as plain single-device code. See docs/design/train-model.md."""

from stoker.train.models.decoder import Decoder, build_model
from stoker.train.models.initialise import materialise

__all__ = ["Decoder", "build_model", "materialise"]
