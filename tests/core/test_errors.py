"""stoker.core.errors: one base, stable ids, exit codes that belong to their room."""

from __future__ import annotations

import importlib
import pkgutil

import pytest

import stoker
from stoker.core.errors import ERROR_CLASSES, ROOM_EXIT_CODES, BadName, StokerError


def test_id_comes_from_the_class_name_and_hint_is_kept() -> None:
    error = BadName("no", hint="yes")
    assert (error.id, error.exit_code, error.message, error.hint, str(error)) == (
        "bad-name",
        10,
        "no",
        "yes",
        "no",
    )


def test_a_class_without_an_exit_code_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="must set its own exit_code"):
        type("Nameless", (StokerError,), {"__module__": "stoker.core.errors"})


def test_an_exit_code_outside_the_rooms_range_is_refused() -> None:
    with pytest.raises(TypeError, match="outside core's"):
        type("Stray", (StokerError,), {"__module__": "stoker.core.errors", "exit_code": 99})


def test_two_classes_cannot_share_an_exit_code() -> None:
    with pytest.raises(TypeError, match="both claim exit code 10"):
        type("Twin", (StokerError,), {"__module__": "stoker.core.errors", "exit_code": 10})


def test_every_room_keeps_to_its_codes() -> None:
    for module in pkgutil.walk_packages(stoker.__path__, "stoker."):
        if not module.name.endswith("__main__") and ".migrations" not in module.name:
            importlib.import_module(module.name)
    for code, error in ERROR_CLASSES.items():
        room = error.__module__.split(".")[1]
        assert error.exit_code == code
        assert code in ROOM_EXIT_CODES[room], error
    names = [error.id for error in ERROR_CLASSES.values()]
    assert len(names) == len(set(names))
