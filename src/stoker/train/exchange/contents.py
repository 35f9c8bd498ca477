"""What lies in a folder of weights, by name and digest: without torch, for whoever must know before a run.

See docs/design/exchange.md, "Reading".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from stoker.core.canonical import digest_of
from stoker.train.exchange.errors import BadWeights

CONFIG: Final = "config.json"
TOKENIZER: Final = "tokenizer.json"
ONE_FILE: Final = "model.safetensors"
INDEX: Final = "model.safetensors.index.json"
MAX_JSON_BYTES: Final = 256 * 1024 * 1024

_PICKLED: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, slots=True)
class WrittenFile:
    """One file of an exported model, by its name in the folder."""

    name: str
    bytes: int
    sha256: str


def files_of(path: Path) -> tuple[list[str], Mapping[str, str] | None]:
    """The safetensors files of a folder, and what its index says where each tensor is, when it has one.

    Raises BadWeights, naming the file, when there are none, or the index is none.
    """
    if not path.is_dir():
        raise BadWeights(f"{path} is no folder.", hint="Name the folder that holds config.json.")
    if (path / INDEX).is_file():
        return _indexed(path / INDEX)
    if (path / ONE_FILE).is_file():
        return [ONE_FILE], None
    pickled = sorted(found.name for pattern in _PICKLED for found in path.glob(pattern))
    if pickled:
        raise BadWeights(
            f"{path} holds pickled weights ({pickled[0]}) and no safetensors; they are never opened.",
            hint="Opening a pickle runs whatever it says. Convert them elsewhere, or take safetensors.",
        )
    raise BadWeights(
        f"{path} holds neither {ONE_FILE} nor {INDEX}.", hint="Name the folder that holds the weights."
    )


def _indexed(path: Path) -> tuple[list[str], Mapping[str, str]]:
    index = read_json(path).get("weight_map")
    if not isinstance(index, dict) or not index:
        raise BadWeights(f"{path} has no weight_map.", hint="Fetch the folder again.")
    for name, file in index.items():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise BadWeights(
                f"{path}: tensor {name[:80]!a} is said to lie in {ascii(file)[:80]}, which is no name of a "
                "safetensors file beside it.",
                hint="Take the folder from somebody you trust.",
            )
    return sorted(set(index.values())), index


def folder_digest(path: Path) -> str:
    """SHA-256, 64 hex digits, over the names and digests of all that a reader of the folder looks at.

    Reads every byte of the weights. Raises BadWeights as `files_of` does, and for a file that cannot be read.
    """
    names, index = files_of(path)
    beside = [name for name in (CONFIG, TOKENIZER) if (path / name).is_file()]
    digests: dict[str, str] = {}
    for name in (*beside, *names, *([INDEX] if index is not None else ())):
        try:
            with (path / name).open("rb") as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise BadWeights(
                f"{path / name} cannot be read: {error.strerror}.", hint="Fetch the folder again."
            ) from error
    return digest_of(digests)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file of at most 256 MiB. Raises BadWeights, naming the file."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_JSON_BYTES + 1)
        if len(data) > MAX_JSON_BYTES:
            raise BadWeights(f"{path} is larger than {MAX_JSON_BYTES} bytes.")
        body = json.loads(data)
    except OSError as error:
        raise BadWeights(
            f"{path} cannot be read: {error.strerror}.",
            hint="A model's folder holds config.json and model.safetensors, or an index of several files.",
        ) from error
    except (ValueError, RecursionError) as error:
        raise BadWeights(f"{path} is not JSON: {type(error).__name__}.", hint="Fetch it again.") from error
    if not isinstance(body, dict):
        raise BadWeights(f"{path} holds no JSON object.", hint="Fetch it again.")
    return body
