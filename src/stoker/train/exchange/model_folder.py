"""A whole exported model in a folder: weights, configuration, tokenizer, card, and a manifest of all of it.

See docs/design/exchange.md, "The folder".
"""

from __future__ import annotations

import enum
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch

from stoker.core.canonical import JsonValue, digest_of
from stoker.core.progress import SILENT, Progress
from stoker.core.result import plain
from stoker.spec.model import ModelSpec
from stoker.train.exchange.card import Card, card_text, manifest
from stoker.train.exchange.configuration import config_of
from stoker.train.exchange.contents import CONFIG, TOKENIZER, WrittenFile
from stoker.train.exchange.own_form import MODEL, description, own_tensors
from stoker.train.exchange.sources import SealedSource
from stoker.train.exchange.write import FILE_BYTES, write_tensors, write_weights

CARD: Final = "README.md"
MANIFEST: Final = "export.json"
TOKENIZER_CONFIG: Final = "tokenizer_config.json"
END_OF_TEXT: Final = "<|endoftext|>"


class Dtype(enum.StrEnum):
    """What the weights are written as; they are sealed as fp32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"

    @property
    def torch(self) -> torch.dtype:
        found = getattr(torch, self.value)
        assert isinstance(found, torch.dtype)
        return found


@dataclass(frozen=True, slots=True)
class Whole:
    """Everything that is written. `hugging_face`: in that form, which decoders have; else in our own.

    `sequence_tokens` is the longest sequence of the training; `classes` are those that the model tells apart.
    """

    trained: object
    vocabulary: int
    sequence_tokens: int
    dtype: Dtype
    source: SealedSource
    card: Card
    tokenizer_json: str | None
    classes: Sequence[str] = ()
    hugging_face: bool = True
    file_bytes: int = FILE_BYTES


def write_model(
    folder: Path, whole: Whole, *, progress: Progress = SILENT, go_on: Callable[[], None] = lambda: None
) -> tuple[tuple[WrittenFile, ...], str]:
    """Write all of it into the empty `folder`; says every file but the manifest, and the digest over them.

    Raises as `write_weights` and `write_tensors` do.
    """
    how: dict[str, Any] = {
        "dtype": whole.dtype.torch,
        "file_bytes": whole.file_bytes,
        "progress": progress,
        "go_on": go_on,
    }
    if whole.hugging_face:
        assert isinstance(whole.trained, ModelSpec)
        weights = write_weights(folder, whole.trained, whole.vocabulary, whole.source, **how)
        texts = _hugging_face(whole, whole.trained)
    else:
        weights = write_tensors(folder, own_tensors(whole.source), whole.source, **how)
        texts = {MODEL: _json(description(whole.trained, whole.vocabulary, whole.classes))}
        if whole.tokenizer_json is not None:
            texts[TOKENIZER] = whole.tokenizer_json
    texts[CARD] = card_text(whole.card, "transformers" if whole.hugging_face else None)
    files = (*weights, *(_write(folder / name, text) for name, text in texts.items()))
    digest = files_digest(files)
    _write(folder / MANIFEST, _json(manifest(whole.card, files, digest)))
    return files, digest


def _hugging_face(whole: Whole, spec: ModelSpec) -> dict[str, str]:
    """What lies beside the weights, by file."""
    end_of_text = None if whole.tokenizer_json is None else _end_of_text(whole.tokenizer_json)
    config = config_of(
        spec,
        whole.vocabulary,
        dtype=whole.dtype.value,
        sequence_tokens=whole.sequence_tokens,
        end_of_text=end_of_text,
    )
    texts = {CONFIG: _json(config)}
    if whole.tokenizer_json is not None:
        texts[TOKENIZER] = whole.tokenizer_json
        texts[TOKENIZER_CONFIG] = _json(_tokenizer_config(whole.sequence_tokens, end_of_text))
    return texts


def files_digest(files: Sequence[WrittenFile]) -> str:
    """SHA-256 over the canonical JSON of the files, as the log records it."""
    return digest_of(plain(tuple(files)))


def _end_of_text(tokenizer_json: str) -> int | None:
    """The id of the token that ends a text, or None."""
    body = json.loads(tokenizer_json)
    found = [each["id"] for each in body.get("added_tokens", ()) if each.get("content") == END_OF_TEXT]
    return int(found[0]) if found else None


def _tokenizer_config(sequence_tokens: int, end_of_text: int | None) -> dict[str, JsonValue]:
    special: dict[str, JsonValue] = (
        {} if end_of_text is None else {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT}
    )
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": sequence_tokens,
        **special,
    }


def _json(body: Mapping[str, JsonValue]) -> str:
    return json.dumps(body, indent=2, ensure_ascii=False) + "\n"


def _write(path: Path, text: str) -> WrittenFile:
    data = text.encode()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return WrittenFile(path.name, len(data), hashlib.sha256(data).hexdigest())
