"""First weights from elsewhere, judged before a run begins: the right model, the right tokens, which bytes.

No torch. See docs/design/exchange.md, "First weights".
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stoker.spec.model import ModelSpec
from stoker.spec.run import RunSpec
from stoker.train.exchange.configuration import described_by
from stoker.train.exchange.contents import CONFIG, TOKENIZER, folder_digest, read_json
from stoker.train.exchange.errors import BadWeights, FormUnknown, WeightsUnfit
from stoker.train.exchange.same_model import require_same_model


def judged_digest(spec: RunSpec, vocabulary: int) -> str:
    """The digest of the folder that the run's first weights come from; empty when it names none.

    Raises BadWeights, FormUnknown, and WeightsUnfit when they are of another model or vocabulary. Reads every
    byte of them.
    """
    if not spec.train.init_from:
        return ""
    folder = Path(spec.train.init_from)
    if not isinstance(spec.trained, ModelSpec):
        raise FormUnknown(
            "train.init_from is for decoders; the run trains a model of another family.",
            hint="Leave train.init_from out.",
        )
    described = described_by(read_json(folder / CONFIG), str(folder / CONFIG))
    require_same_model(described, spec.model, vocabulary)
    return folder_digest(folder)


def require_same_bytes(folder: Path, digest: str) -> None:
    """Raise BadWeights unless the folder is still the one that the log recorded."""
    found = folder_digest(folder)
    if found != digest:
        raise BadWeights(
            f"{folder} has digest {found[:16]}…, where the run began with {digest[:16]}….",
            hint="The folder was changed since. Bring it back, or start a new run.",
        )


def require_same_tokens(folder: Path, tokenizer_json: str) -> None:
    """Raise WeightsUnfit when the folder has a tokenizer whose tokens are not those of `tokenizer_json`.

    A folder without one says nothing, and then nobody can know.
    """
    if not (folder / TOKENIZER).is_file():
        return
    there, here = _tokens(read_json(folder / TOKENIZER)), _tokens(json.loads(tokenizer_json))
    if there != here:
        raise WeightsUnfit(
            f"The tokenizer in {folder} is not the dataset's: the same number means another token.",
            hint="Prepare the dataset with the tokenizer that the weights were trained with (tokenizer_of).",
        )


def _tokens(body: Mapping[str, Any]) -> tuple[Any, Any]:
    """Every token with its number, and the merges in order; written either way that `tokenizers` does."""
    model = body.get("model")
    if not isinstance(model, Mapping):
        return None, None
    merges = model.get("merges") or []
    joined = [each if isinstance(each, str) else " ".join(map(str, each)) for each in merges]
    return model.get("vocab"), joined
