"""From a folder in Hugging Face's form into a model's own tensors, on any layout.

A rank reads the pieces that it holds, as checkpoints divide tensors, one at a time, and nothing is sent. All
names and shapes are compared before a weight changes. See docs/design/exchange.md, "Reading".
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_model_state_dict

from stoker.spec.model import ModelSpec
from stoker.train.checkpoint_pieces import Piece, pieces_of
from stoker.train.exchange.configuration import described_by
from stoker.train.exchange.contents import CONFIG
from stoker.train.exchange.errors import WeightsUnfit
from stoker.train.exchange.first_weights import require_same_bytes, require_same_tokens
from stoker.train.exchange.folder import WeightFolder, is_floating
from stoker.train.exchange.hugging_face import ForeignTensor, foreign_tensors, unsaid_tensors
from stoker.train.exchange.same_model import require_same_model

_LEFT_OUT: Final = (".rotary_emb.inv_freq",)
"""Ends of names that old checkpoints hold and that follow from the configuration."""

_HEAD: Final = "lm_head.weight"
_EMBEDDING: Final = "model.embed_tokens.weight"
_SHOWN: Final = 5


def load_weights(model: nn.Module, spec: ModelSpec, vocabulary: int, folder: WeightFolder) -> None:
    """Fill the parameters of `model`, which was made from `spec`, whole or spread in any way.

    Each rank calls it; none waits for another. Raises FormUnknown, and WeightsUnfit naming every tensor that
    is missing, unexpected, transposed or of another shape, before a weight changes; WeightsUnfit also for a
    value that is no finite number, and then the model is to be thrown away.
    """
    require_same_model(described_by(folder.config, str(folder.path / CONFIG)), spec, vocabulary)
    expected = tuple(foreign_tensors(spec, vocabulary))
    compare(expected, folder, tied=spec.tied_embeddings)
    state: dict[str, Any] = dict(get_model_state_dict(model))
    unsaid = set(unsaid_tensors(spec))
    stored: dict[str, list[ForeignTensor]] = defaultdict(list)
    for tensor in expected:
        stored[tensor.ours].append(tensor)
    unknown = sorted(set(state) - unsaid - set(stored))
    assert not unknown, f"the form has no place for {unknown[:_SHOWN]}"
    with torch.no_grad():
        for name in unsaid & set(state):
            state[name].zero_()
        for piece in pieces_of({name: value for name, value in state.items() if name not in unsaid}):
            _fill(piece, stored[piece.name], folder)


def load_first_weights(
    model: nn.Module,
    spec: ModelSpec,
    vocabulary: int,
    place: Path,
    *,
    digest: str,
    tokenizer_json: str,
    verifies: bool,
) -> None:
    """Fill a fresh model from the folder that its run names; every rank calls it.

    One rank `verifies` that the folder still has the `digest` that the log recorded, after it was read.
    Raises BadWeights when it has not, WeightsUnfit when its tokenizer is another, and as `load_weights` does.
    """
    require_same_tokens(place, tokenizer_json)
    with WeightFolder.open(place) as folder:
        load_weights(model, spec, vocabulary, folder)
    if verifies:
        require_same_bytes(place, digest)


def compare(expected: Iterable[ForeignTensor], folder: WeightFolder, *, tied: bool) -> None:
    """Raise WeightsUnfit, naming each tensor, unless the folder holds exactly these, each of its shape."""
    wanted = {tensor.name: tensor for tensor in expected}
    problems = [problem for tensor in wanted.values() if (problem := _problem(tensor, folder))]
    for name in sorted(set(folder.tensors) - set(wanted)):
        if name.endswith(_LEFT_OUT):
            continue
        if tied and name == _HEAD:
            problems += _head_problem(folder)
        else:
            problems.append(f"{name[:80]!a} is extra: this model has no such tensor")
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise WeightsUnfit(
            f"{folder.path} does not hold this model: {'; '.join(problems[:_SHOWN])}{more}.",
            hint="Nothing was loaded. Compare [model] with the folder's config.json, and fetch it again.",
        )


def _problem(tensor: ForeignTensor, folder: WeightFolder) -> str | None:
    stored = folder.tensors.get(tensor.name)
    if stored is None:
        return f"{tensor.name!r} is missing"
    if not is_floating(stored):
        return (
            f"{tensor.name!r} is of type {stored.dtype}, which is no plain floating point of 16 bits or more"
        )
    if stored.shape == tensor.shape:
        return None
    turned = len(tensor.shape) == 2 and stored.shape == tensor.shape[::-1]
    how = "transposed" if turned else "of another shape"
    return f"{tensor.name!r} is {how}: {list(stored.shape)}, where {list(tensor.shape)} is expected"


def _head_problem(folder: WeightFolder) -> Iterator[str]:
    """A tied model may say its head twice; both must be the same numbers."""
    head, embedding = folder.tensors[_HEAD], folder.tensors.get(_EMBEDDING)
    if embedding is None or head.shape != embedding.shape or head.dtype != embedding.dtype:
        same = False
    else:
        whole = ([0] * len(head.shape), head.shape)
        same = torch.equal(folder.read(_HEAD, *whole), folder.read(_EMBEDDING, *whole))
    if not same:
        yield f"{_HEAD!r} is extra: this model's embeddings are tied, and it is not {_EMBEDDING!r}"


def _fill(piece: Piece, stored: Sequence[ForeignTensor], folder: WeightFolder) -> None:
    """What this rank holds of one of our tensors, from the one that is it, or from those of its experts."""
    if stored[0].expert is None:
        piece.data.copy_(_read(stored[0], piece.offsets, piece.data.shape, folder))
        return
    for row, expert in enumerate(stored[piece.offsets[0] : piece.offsets[0] + piece.data.shape[0]]):
        piece.data[row].copy_(_read(expert, piece.offsets[1:], piece.data.shape[1:], folder))


def _read(
    tensor: ForeignTensor, offsets: Sequence[int], lengths: Sequence[int], folder: WeightFolder
) -> Tensor:
    found = folder.read(tensor.name, offsets, lengths)
    if not bool(torch.isfinite(found).all()):
        raise WeightsUnfit(
            f"{folder.path}: {tensor.name!r} holds a value that is no finite number.",
            hint="The file is damaged, or its training had failed. Take other weights.",
        )
    return found
