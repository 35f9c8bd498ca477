"""stoker.core.config: all mistakes at once, each with file, path and nearest name."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from stoker.core.config import Layer, from_plain, load, load_file, override_layer
from stoker.core.errors import ConfigError
from stoker.core.result import plain


class Colour(enum.StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True)
class Inner:
    steps: int = 3
    rate: float = 0.5
    colours: tuple[Colour, ...] = (Colour.RED,)

    def problems(self) -> Iterator[str]:
        if self.steps < 1:
            yield f"steps is {self.steps}; at least 1 is needed"


@dataclass(frozen=True, slots=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    limit: int | None = None


def write(folder: Path, text: str) -> Path:
    path = folder / "run.toml"
    path.write_text(text)
    return path


def test_file_becomes_a_frozen_dataclass(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = "a"\nlimit = 4\n[inner]\nsteps = 7\nrate = 1\ncolours = ["blue", "red"]\n')
    loaded = load_file(Outer, path)
    assert loaded.value == Outer("a", Inner(7, 1.0, (Colour.BLUE, Colour.RED)), 4)
    assert isinstance(loaded.value.inner.rate, float)
    assert loaded.origins["inner.steps"] == str(path)


def test_three_mistakes_are_all_named_with_file_path_and_nearest_key(tmp_path: Path) -> None:
    path = write(tmp_path, 'name = 5\n[inner]\nstep = 7\ncolours = ["bleu"]\n')
    with pytest.raises(ConfigError) as caught:
        load_file(Outer, path)
    message = caught.value.message
    assert "3 mistakes" in message
    assert f"{path}: name: expected text in quotes, found 5" in message
    assert f"{path}: inner.step: unknown key; did you mean 'steps'?" in message
    assert (
        f"{path}: inner.colours[0]: expected one of red, blue; found 'bleu'; did you mean 'blue'?" in message
    )


def test_broken_rules_are_named_beside_unknown_keys_and_wrong_types(tmp_path: Path) -> None:
    path = write(tmp_path, "name = 5\nlimt = 3\n[inner]\nstep = 7\nsteps = 0\n")
    with pytest.raises(ConfigError) as caught:
        load_file(Outer, path)
    assert caught.value.message.split("\n  ")[1:] == [
        f"{path}: name: expected text in quotes, found 5",
        f"{path}: inner.step: unknown key; did you mean 'steps'?",
        f"{path}: limt: unknown key; did you mean 'limit'?",
        f"{path}: inner: steps is 0; at least 1 is needed",
    ]


def test_broken_rules_are_named_beside_wrong_values_of_the_same_table(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_file(Outer, write(tmp_path, 'name = "a"\n[inner]\nsteps = 0\nrate = "fast"\n'))
    assert "2 mistakes" in caught.value.message
    assert "inner.rate: expected a number, found 'fast'" in caught.value.message
    assert "inner: steps is 0; at least 1 is needed" in caught.value.message


def test_no_rule_is_held_against_a_value_that_could_not_be_understood(tmp_path: Path) -> None:
    @dataclass(frozen=True, slots=True)
    class Pair:
        less: int = 5
        more: int = 9

        def problems(self) -> Iterator[str]:
            if self.less > self.more:
                yield f"less is {self.less}, above more {self.more}"

    with pytest.raises(ConfigError, match="1 mistake in"):
        load_file(Pair, write(tmp_path, 'less = 20\nmore = "many"\n'))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "name: is required and missing"),
        ('name = "a"\ninner = 3\n', "inner: expected a table"),
        ('name = "a"\n[inner]\nsteps = 1.5\n', "inner.steps: expected a whole number, found 1.5"),
        ('name = "a"\n[inner]\nsteps = true\n', "inner.steps: expected a whole number, found True"),
        ('name = "a"\n[inner]\nrate = "fast"\n', "inner.rate: expected a number, found 'fast'"),
        ('name = "a"\n[inner]\nsteps = 0\n', "inner: steps is 0; at least 1 is needed"),
        ('name = "a"\nlimit = "x"\n', "limit: expected a whole number, found 'x'"),
    ],
)
def test_each_kind_of_mistake_is_named(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_file(Outer, write(tmp_path, text))
    assert expected in caught.value.message


@pytest.mark.parametrize("text", ["name = ", "\xff\xfe"])
def test_what_is_not_toml_is_refused_with_its_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"run\.toml is not"):
        load_file(Outer, path)


def test_missing_and_oversized_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_file(Outer, tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="at most"):
        load_file(Outer, write(tmp_path, "#" * 2_000_000))


def test_later_layers_and_the_command_line_win_and_origins_say_so() -> None:
    site = Layer("site.toml", {"name": "a", "inner": {"steps": 1, "rate": 2.0}})
    project = Layer("project.toml", {"inner": {"steps": 2}})
    loaded = load(Outer, [site, project], ["inner.rate=4", "name=plain-text"])
    assert loaded.value == Outer("plain-text", Inner(2, 4.0))
    assert loaded.origins["inner.steps"] == "project.toml"
    assert loaded.origins["inner.rate"] == "command line"


def test_a_mistake_in_an_override_names_the_command_line() -> None:
    with pytest.raises(ConfigError, match=r"command line: inner\.steps: expected a whole number"):
        load(Outer, [Layer("f", {"name": "a"})], ["inner.steps=many"])


@pytest.mark.parametrize("override", ["steps", "=3", "a..b=3", "a b=3"])
def test_what_is_not_an_override_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match="expected path=value"):
        override_layer([override])


def test_digest_is_of_the_merged_value_not_of_how_it_was_written() -> None:
    one = load(Outer, [Layer("f", {"name": "a", "inner": {"steps": 3}})])
    two = load(Outer, [Layer("g", {"name": "a"})])
    three = load(Outer, [Layer("g", {"name": "b"})])
    assert one.digest == two.digest != three.digest


def test_plain_and_back_is_the_same_value() -> None:
    value = Outer("a", Inner(2, 0.25, (Colour.BLUE,)), None)
    assert from_plain(Outer, plain(value), "job.json") == value
