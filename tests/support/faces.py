"""Pictures of people, and of none, that ship inside scikit-image, which the extra `faces` brings along.

astronaut.png: Eileen Collins, NASA, in the public domain. camera.png: by Lav Varshney, CC0. coffee.png: by
Rachel Michetti, CC0. grass.png, gravel.png: CC0. See skimage/data/README.txt and the package's licence file.
"""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
from PIL import Image


def shipped(name: str) -> bytes:
    """One of scikit-image's own pictures, encoded."""
    found = importlib.util.find_spec("skimage")
    assert found is not None
    assert found.submodule_search_locations is not None
    return (Path(found.submodule_search_locations[0]) / "data" / name).read_bytes()


def pixels_of(data: bytes) -> np.ndarray:
    """An encoded picture in RGB, uint8 [height, width, 3]."""
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def encoded(pixels: np.ndarray, form: str, **options: object) -> bytes:
    """Pixels in a format."""
    target = io.BytesIO()
    Image.fromarray(pixels).save(target, form, **options)
    return target.getvalue()
