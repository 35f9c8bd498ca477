"""The sizes of a stack of encoder blocks, and of a picture cut into patches: shared by several families.

Formulas: docs/design/spec.md, "Encoders".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


def size_problems(spec: object, *names: str) -> Iterator[str]:
    """One sentence for each of the named fields that is below 1."""
    for name in names:
        if getattr(spec, name) < 1:
            yield f"{name} is {getattr(spec, name)}; it must be at least 1"


@dataclass(frozen=True, slots=True)
class EncoderSize:
    """`layers` blocks of attention and a feed-forward of two matrices, with biases and LayerNorms."""

    layers: int
    width: int
    heads: int
    ffn_width: int

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values."""
        yield from size_problems(self, "layers", "width", "heads", "ffn_width")
        if self.width >= 1 and self.heads >= 1 and self.width % self.heads:
            yield f"width {self.width} is not divisible by heads {self.heads}"

    def parameters(self) -> int:
        """The trained parameters of the blocks and the last norm."""
        return self.layers * self._layer_parameters + 2 * self.width

    @property
    def layer_matrix_parameters(self) -> int:
        """The parameters of one block's matrices."""
        return 4 * self.width * self.width + 2 * self.width * self.ffn_width

    @property
    def _layer_parameters(self) -> int:
        biases = 4 * self.width + self.ffn_width + self.width
        norms = 2 * 2 * self.width  # a gain and a bias each
        return self.layer_matrix_parameters + biases + norms

    def forward_flops(self, positions: int) -> float:
        """Model FLOPs of the blocks' forward pass over one sequence of `positions`; every pair is met."""
        matrices = 2 * self.layer_matrix_parameters * positions
        attention = 4 * self.width * positions * positions
        return float(self.layers * (matrices + attention))


@dataclass(frozen=True, slots=True)
class PictureSize:
    """A square picture of `image_size` pixels a side, cut into squares of `patch` pixels a side."""

    image_size: int
    channels: int
    patch: int

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values."""
        yield from size_problems(self, "image_size", "channels", "patch")
        if self.image_size >= 1 and self.patch >= 1 and self.image_size % self.patch:
            yield f"image_size {self.image_size} is not divisible by patch {self.patch}"

    @property
    def patches(self) -> int:
        """How many patches a picture has."""
        return (self.image_size // self.patch) ** 2

    @property
    def patch_elements(self) -> int:
        """The numbers of one patch."""
        return self.channels * self.patch * self.patch
