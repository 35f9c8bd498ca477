"""A folder of safetensors, as others publish models: what is in it, and reading it in places.

Only safetensors are opened, by their own library. A pickled file beside them is not looked at, and a folder
that has nothing else is refused by name. See docs/design/exchange.md, "Reading".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from stoker.train.exchange.contents import CONFIG, INDEX, files_of, read_json
from stoker.train.exchange.errors import BadWeights
from stoker.train.tensor_file import DTYPES


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a folder: the file that holds it, its type as safetensors calls it, and its shape."""

    file: str
    dtype: str
    shape: tuple[int, ...]


class WeightFolder:
    """The tensors of a folder by name, and its description; the files stay open until the block ends."""

    def __init__(
        self,
        path: Path,
        config: Mapping[str, Any],
        tensors: Mapping[str, StoredTensor],
        files: Mapping[str, Any],
    ) -> None:
        """Use `open`."""
        self.path = path
        self.config = config
        self.tensors = tensors
        self._files = files
        self._closing = ExitStack()

    @classmethod
    def open(cls, path: Path, config: str = CONFIG) -> WeightFolder:
        """Open every safetensors file of the folder, whose description is in `config`; only headers are read.

        Raises BadWeights, naming the file, when the folder is no model's, holds only pickled weights, or its
        index and its files do not agree.
        """
        if not path.is_dir():
            raise BadWeights(f"{path} is no folder.", hint="Name the folder that holds config.json.")
        described = read_json(path / config)
        names, index = files_of(path)
        with ExitStack() as closing:
            files = {name: closing.enter_context(_opened(path / name)) for name in names}
            tensors = _tensors_in(path, files)
            if index is not None:
                _compare_with_index(path, index, tensors)
            folder = cls(path, described, tensors, files)
            folder._closing = closing.pop_all()
            return folder

    def __enter__(self) -> WeightFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()

    def read(self, name: str, offsets: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """The part of tensor `name` at `offsets` of `lengths`, of its stored type."""
        stored = self.tensors[name]
        place = tuple(slice(at, at + length) for at, length in zip(offsets, lengths, strict=True))
        try:
            part: Tensor = self._files[stored.file].get_slice(name)[place]
        except (SafetensorError, OSError) as error:
            raise BadWeights(
                f"{self.path / stored.file}: tensor {name[:80]!a} cannot be read: {error}."
            ) from error
        return part


def _opened(path: Path) -> Any:
    try:
        return safe_open(str(path), framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise BadWeights(f"{path} is no whole safetensors file: {error}.", hint="Fetch it again.") from error


def _tensors_in(path: Path, files: Mapping[str, Any]) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for file, opened in files.items():
        for name in opened.keys():  # noqa: SIM118 - no mapping
            if name in tensors:
                raise BadWeights(f"Tensor {name[:80]!a} is in {tensors[name].file} and in {file} of {path}.")
            stored = opened.get_slice(name)
            tensors[name] = StoredTensor(file, str(stored.get_dtype()), tuple(stored.get_shape()))
    return tensors


def _compare_with_index(path: Path, index: Mapping[str, str], tensors: Mapping[str, StoredTensor]) -> None:
    for name, file in index.items():
        found = tensors.get(name)
        if found is None or found.file != file:
            where = "in none of its files" if found is None else f"in {found.file}"
            raise BadWeights(f"{path / INDEX}: tensor {name[:80]!a} should lie in {file}; it is {where}.")


def is_floating(stored: StoredTensor) -> bool:
    """Whether a weight can be made of the tensor as it is: floating point of 16 bits or more."""
    dtype = DTYPES.get(stored.dtype)
    return dtype is not None and dtype.is_floating_point and dtype.itemsize >= 2
