"""What a feed needs of a dataset: its name and chunks of samples. See docs/design/feed.md."""

from __future__ import annotations

from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

Samples: TypeAlias = npt.NDArray[np.unsignedinteger[Any]]
"""Rows of tokens, [rows, sample_tokens], in the type they are stored in."""


class SampleSplit(Protocol):
    """A split as chunks of samples; sample n is row n mod `chunk_samples` of chunk n div `chunk_samples`."""

    @property
    def samples(self) -> int:
        """How many samples there are."""
        ...

    @property
    def sample_tokens(self) -> int:
        """The tokens of one sample: a sequence, and one more, which also begins the next sample."""
        ...

    @property
    def chunk_samples(self) -> int:
        """The samples of each chunk but the last, which may be shorter."""
        ...

    def read_chunk(self, chunk: int) -> Samples:
        """The verified samples of one chunk, in an array that is the caller's to overwrite."""
        ...

    def wipe(self) -> None:
        """Wipe the keys and buffers that reading needed. Reading may go on, and then opens them anew."""
        ...


class SampleDataset(Protocol):
    """A dataset as a feed sees it."""

    @property
    def root(self) -> str:
        """The manifest root that names this version, 64 hexadecimal digits."""
        ...

    def split(self, name: str) -> SampleSplit:
        """A reader of its own of one split. Raises UnknownSplit."""
        ...
