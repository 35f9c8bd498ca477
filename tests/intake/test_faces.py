"""Faces are found by CenterFace and blurred for good, and nothing else of a picture changes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stoker.core.errors import MissingExtra
from stoker.intake.media_review import centerface
from stoker.intake.media_review.centerface import CenterFace, with_free_shapes
from stoker.intake.media_review.exif import orientation_block
from stoker.intake.media_review.faces import Faces, NotLookedAt
from stoker.intake.sources.media import kind_of
from support.faces import encoded, pixels_of, shipped
from support.media_files import png_claiming

EYES = (170, 280, 60, 175)
"""Left, right, top and bottom of the astronaut's face in her picture of 512 by 512 pixels."""


@pytest.fixture(scope="module")
def faces() -> Faces:
    return Faces()


def test_a_face_is_found_where_it_is(faces: Faces) -> None:
    (face,) = faces.find(shipped("astronaut.png"))
    left, right, top, bottom = EYES
    middle_x, middle_y = (face.left + face.right) / 2, (face.top + face.bottom) / 2
    assert left < middle_x < right
    assert top < middle_y < bottom
    assert face.score > 0.8


@pytest.mark.parametrize("name", ["coffee.png", "grass.png", "gravel.png"])
def test_a_picture_of_no_one_has_no_face(faces: Faces, name: str) -> None:
    assert faces.find(shipped(name)) == ()
    assert faces.blur(shipped(name)).data == shipped(name)


@pytest.mark.parametrize(("form", "ends"), [("PNG", ".png"), ("JPEG", ".jpg"), ("WEBP", ".webp")])
def test_blurring_leaves_no_face_and_the_rest_of_the_picture(faces: Faces, form: str, ends: str) -> None:
    pixels = pixels_of(shipped("astronaut.png"))
    blurred = faces.blur(encoded(pixels, form))
    assert blurred.faces >= 1
    assert faces.find(blurred.data) == ()
    assert kind_of(blurred.data) == ends
    after = pixels_of(blurred.data).astype(int)
    change = np.abs(after - pixels).mean(axis=2)
    left, right, top, bottom = EYES
    assert change[top:bottom, left:right].mean() > 5 * change[300:, 300:].mean()
    if form == "PNG":
        assert change[300:].max() == 0


def test_what_is_left_of_a_face_is_a_few_colours(faces: Faces) -> None:
    """Neighbouring pixels of the blurred face differ by less than a person could be told by."""
    after = pixels_of(faces.blur(shipped("astronaut.png")).data).astype(int)
    left, right, top, bottom = EYES
    inside = after[top + 20 : bottom - 20, left + 20 : right - 20]
    assert np.abs(np.diff(inside, axis=0)).max() <= 8
    assert np.abs(np.diff(inside, axis=1)).max() <= 8


def test_several_small_and_lying_faces_are_found(faces: Faces) -> None:
    one = pixels_of(encoded(pixels_of(shipped("astronaut.png"))[::2, ::2], "PNG"))
    crowd = np.concatenate([np.concatenate([one] * 3, axis=1)] * 2, axis=0)
    assert len(faces.find(encoded(crowd, "PNG"))) == 6
    turned = np.rot90(pixels_of(shipped("astronaut.png")), 1)
    lying = encoded(np.ascontiguousarray(turned), "JPEG", exif=b"Exif\0\0" + orientation_block(6))
    assert len(faces.find(lying)) == 1


def test_a_wide_thin_and_a_tiny_picture_are_looked_at(faces: Faces) -> None:
    for shape in ((1, 1), (3, 2000), (40, 7)):
        assert faces.find(encoded(np.zeros((*shape, 3), dtype=np.uint8), "PNG")) == ()


def test_pictures_that_cannot_be_looked_at_say_so(faces: Faces) -> None:
    whole = shipped("astronaut.png")
    for broken, why in (
        (b"text", "known kind"),
        (whole[: len(whole) // 2], "cannot be decoded"),
        (png_claiming(100_000, 100_000), "too many pixels"),
    ):
        with pytest.raises(NotLookedAt, match=why):
            faces.blur(broken)


def test_an_animation_with_a_face_is_not_blurred_but_refused(faces: Faces) -> None:
    first = Image.fromarray(pixels_of(shipped("astronaut.png"))[::2, ::2])
    second = Image.fromarray(pixels_of(shipped("coffee.png"))[:256, :256])
    target = io.BytesIO()
    second.save(target, "WEBP", save_all=True, append_images=[first])
    assert len(faces.find(target.getvalue())) == 1
    with pytest.raises(NotLookedAt, match="animation"):
        faces.blur(target.getvalue())


def test_other_weights_than_the_known_ones_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Spec:
        submodule_search_locations = (str(tmp_path),)

    monkeypatch.setattr(centerface.importlib.util, "find_spec", lambda _: Spec)
    with pytest.raises(MissingExtra, match="lacks its weights") as error:
        CenterFace()
    assert "faces" in error.value.hint
    (tmp_path / "centerface.onnx").write_bytes(b"others")
    with pytest.raises(MissingExtra, match="other weights"):
        CenterFace()


@pytest.mark.parametrize("broken", [b"\x3a", b"\x3a\xff", b"\x3b", b"\x3a" + b"\xff" * 11, b"\x08"])
def test_a_model_that_is_cut_off_is_an_error(broken: bytes) -> None:
    with pytest.raises(ValueError, match=r"weights|number"):
        with_free_shapes(broken)
