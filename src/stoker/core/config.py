"""TOML files into frozen dataclasses: every mistake at once, each with file, path and the nearest name.

Later layers win over earlier ones, and `a.b=3` overrides win over all files. The merged value comes with its
digest and with where each value came from, so that both can be saved in the run.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from cattrs import Converter
from cattrs.errors import ClassValidationError, ForbiddenExtraKeysError, IterableValidationError

from stoker.core.canonical import digest_of
from stoker.core.errors import ConfigError
from stoker.core.result import plain

T = TypeVar("T")

MAX_FILE_BYTES = 1024 * 1024
COMMAND_LINE = "command line"


@runtime_checkable
class SelfChecking(Protocol):
    """A configuration dataclass that knows rules which types cannot say."""

    def problems(self) -> Iterator[str]:
        """One sentence for each rule that is broken, naming the fields and their values."""
        ...


@dataclass(frozen=True, slots=True)
class Layer:
    """One place that values come from, with the raw tables read from it."""

    name: str
    table: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Loaded(Generic[T]):
    """A configuration with its digest, and for each path that was given where it was given."""

    value: T
    digest: str
    origins: Mapping[str, str]


def read_layer(path: Path) -> Layer:
    """The TOML file at `path` as a layer. Raises ConfigError when it is missing, too large or not TOML."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist.", hint="Give the path of a TOML file.") from error
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read: {error.strerror}.", hint="Give a readable TOML file."
        ) from error
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path} is too large: a configuration has at most {MAX_FILE_BYTES} bytes.")
    if path.suffix.lower() in (".yaml", ".yml") or raw.lstrip().startswith((b"%YAML", b"---")):
        raise ConfigError(
            f"{path} is YAML, and no YAML is ever read: it can name code to run and grow without bound.",
            hint="Write it as TOML.",
        )
    try:
        return Layer(str(path), tomllib.loads(raw.decode()))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 (byte {error.start}).", hint="Save it as UTF-8.") from error
    except RecursionError as error:
        raise ConfigError(f"{path} nests too deep for a configuration.", hint="Mend the file.") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML: {error}.", hint="Mend the line named.") from error


def override_layer(overrides: Sequence[str]) -> Layer:
    """`["train.steps=3", "name=x"]` as a layer; a value that is not TOML is taken as text.

    Raises ConfigError naming every override that is not `path=value`.
    """
    table: dict[str, Any] = {}
    mistakes: list[str] = []
    for override in overrides:
        path, equals, text = override.partition("=")
        parts = path.strip().split(".")
        if not equals or not all(part and part.replace("_", "").isalnum() for part in parts):
            mistakes.append(f"{override!r}: expected path=value, such as train.steps=200")
            continue
        inner = table
        for part in parts[:-1]:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                mistakes.append(f"{override!r}: {part} was already given a plain value")
                break
        else:
            inner[parts[-1]] = _toml_value(text.strip())
    if mistakes:
        raise ConfigError("; ".join(mistakes) + ".", hint="Write overrides as a.b=3.")
    return Layer(COMMAND_LINE, table)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def load(cls: type[T], layers: Sequence[Layer], overrides: Sequence[str] = ()) -> Loaded[T]:
    """Merge `layers` in order, then `overrides`, and build `cls`. Raises ConfigError with all mistakes."""
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in [*layers, *([override_layer(overrides)] if overrides else [])]:
        _merge(merged, layer.table, layer.name, origins, "")
    try:
        value = _converter().structure(merged, cls)
    except (ClassValidationError, IterableValidationError, ForbiddenExtraKeysError) as error:
        found = [*_explain(error, ""), *_checks_of_sound_parts(merged, cls, "")]
        mistakes = [_placed(path, text, origins) for path, text in found]
    else:
        mistakes = [_placed(path, text, origins) for path, text in _self_checks(value, "")]
        if not mistakes:
            return Loaded(value, digest_of(plain(value)), origins)
    raise ConfigError(
        "\n  ".join(
            [f"{len(mistakes)} mistake{'s' if len(mistakes) > 1 else ''} in the configuration:", *mistakes]
        ),
        hint="Mend the places named, then run the command again.",
    )


def load_file(cls: type[T], path: Path, overrides: Sequence[str] = ()) -> Loaded[T]:
    """`load` for a single TOML file."""
    return load(cls, [read_layer(path)], overrides)


def from_plain(cls: type[T], value: Any, place: str) -> T:
    """Build `cls` from JSON values that `plain` made, as strictly as from TOML. Raises ConfigError."""
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{place}: expected a table of settings, found a value of type {type(value).__name__}.",
            hint="It was changed or damaged: nothing of Stoker writes that.",
        )
    return load(cls, [Layer(place, value)]).value


def _merge(
    into: dict[str, Any], table: Mapping[str, Any], layer: str, origins: dict[str, str], prefix: str
) -> None:
    for key, value in table.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            inner = into.setdefault(key, {})
            origins[path] = layer
            if isinstance(inner, dict):
                _merge(inner, value, layer, origins, path + ".")
                continue
        into[key] = value
        origins[path] = layer


def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in _KIND_NAMES:
        converter.register_structure_hook(kind, _strict)
    converter.register_structure_hook_func(_is_enum, _enum)
    converter.register_structure_hook_func(
        _is_optional, lambda value, kind: _optional(converter, value, kind)
    )
    converter.register_structure_hook_func(
        lambda kind: getattr(kind, "__supertype__", None) is not None,
        lambda value, kind: _strict(value, kind.__supertype__),
    )
    return converter


def _strict(value: Any, kind: type) -> Any:
    """No silent conversion: TOML says the type, except that a whole number may stand for a float."""
    if issubclass(kind, enum.Enum):
        return _enum(value, kind)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise ValueError(f"expected {_KIND_NAMES[kind]}, found {value!r}")
    return value


_KIND_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _enum(value: Any, kind: type[enum.Enum]) -> enum.Enum:
    try:
        return kind(value)
    except ValueError:
        names = [str(member.value) for member in kind]
        explain = getattr(kind, "why_not", None)  # an enum may know words that it refuses for a reason
        why = explain(value) if explain is not None else None
        raise ValueError(
            why or f"expected one of {', '.join(names)}; found {value!r}{_nearest(str(value), names)}"
        ) from None


def _is_optional(kind: Any) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union) and type(None) in typing.get_args(kind)


def _optional(converter: Converter, value: Any, kind: Any) -> Any:
    if value is None:
        return None
    (inner,) = (each for each in typing.get_args(kind) if each is not type(None))
    return converter.structure(value, inner)


def _explain(error: BaseException, path: str) -> Iterator[tuple[str, str]]:
    """Every mistake inside cattrs's tree of exceptions, with its dotted path."""
    if isinstance(error, ClassValidationError | IterableValidationError):
        for inner in error.exceptions:
            yield from _explain(inner, path + _step(inner, path))
    elif isinstance(error, ForbiddenExtraKeysError):
        names = [field.name for field in dataclasses.fields(error.cl)]
        for key in sorted(error.extra_fields):
            yield _join(path, key), f"unknown key{_nearest(key, names)}"
    elif isinstance(error, KeyError):
        yield _join(path, str(error.args[0])), "is required and missing"
    elif isinstance(error, TypeError | AttributeError):
        yield path, "expected a table"
    else:
        yield path, str(error)


def _step(error: BaseException, path: str) -> str:
    for note in getattr(error, "__notes__", ()):
        name = getattr(note, "name", None)
        if name is not None and not isinstance(error, KeyError):
            return _join("", str(name)) if not path else f".{name}"
        index = getattr(note, "index", None)  # every note is text, which has a method of that name
        if isinstance(index, int):
            return f"[{index}]"
        if isinstance(index, str):  # the key of a table whose keys are words
            return _join("", str(index)) if not path else f".{index}"
    return ""


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _nearest(key: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(key, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else f"; valid are {', '.join(names)}"


def _self_checks(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, SelfChecking):
        for text in value.problems():
            yield path, text
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from _self_checks(getattr(value, field.name), _join(path, field.name))


def _checks_of_sound_parts(table: Mapping[str, Any], cls: Any, path: str) -> Iterator[tuple[str, str]]:
    """The broken rules that can be told although something in `table` cannot be understood.

    What cannot be understood was told already: its defaults stand in, and rules that name it are left out.
    """
    hints = typing.get_type_hints(cls)
    for name, inner in table.items():
        if dataclasses.is_dataclass(hints.get(name)) and isinstance(inner, Mapping):
            yield from _checks_of_sound_parts(inner, hints[name], _join(path, name))
    sound, wrong = _known(table, cls), []
    try:
        value = _converter().structure(sound, cls)
    except (ClassValidationError, IterableValidationError) as error:
        wrong = [place.partition("[")[0].split(".") for place, _ in _explain(error, "")]
        for steps in wrong:
            _remove(sound, steps)
        try:
            value = _converter().structure(sound, cls)
        except (ClassValidationError, IterableValidationError):
            return  # something that has no default is missing
    if isinstance(value, SelfChecking):
        for text in value.problems():
            if not any(re.search(rf"\b{steps[-1]}\b", text) for steps in wrong):
                yield path, text


def _remove(table: dict[str, Any], steps: Sequence[str]) -> None:
    for step in steps[:-1]:
        table = table.get(step, {})
    table.pop(steps[-1], None)


def _known(table: Mapping[str, Any], cls: Any) -> dict[str, Any]:
    """`table` without the keys that `cls` does not have, all the way down."""
    hints = typing.get_type_hints(cls)
    return {
        name: _known(value, hints[name])
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping)
        else value
        for name, value in table.items()
        if name in hints
    }


def _placed(path: str, text: str, origins: Mapping[str, str]) -> str:
    place = path
    while place and place not in origins:
        place = place.rpartition(".")[0] if "." in place or "[" not in place else place.partition("[")[0]
    where = origins.get(place) or (next(iter(origins.values())) if origins else "defaults")
    return f"{where}: {path or '(top)'}: {text}"
