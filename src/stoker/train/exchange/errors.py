"""What can be wrong with weights from elsewhere, or with a model that is to leave the house.

This module imports no torch, so that a face and the room above can ask it. See docs/design/exchange.md.
"""

from __future__ import annotations

from stoker.core.errors import StokerError


class BadWeights(StokerError):
    """A folder of foreign weights cannot be read: no safetensors, a broken index, a damaged file."""

    exit_code = 190


class WeightsUnfit(StokerError):
    """Foreign weights are of another model: a tensor is missing, extra, transposed or of another size."""

    exit_code = 191


class FormUnknown(StokerError):
    """The other form cannot say what the model is, or a configuration says what no model here is."""

    exit_code = 192


class ReleaseRefused(StokerError):
    """The model is not to be released: it knows its data by heart, or nobody measured whether it does."""

    exit_code = 193
