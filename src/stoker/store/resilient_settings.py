"""What the URL of a remote store may say about retries and hedging. See docs/design/store.md, "Settings"."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from stoker.store.errors import StoreUnreachable
from stoker.store.hedge import HedgePolicy
from stoker.store.remote import RequestLimits
from stoker.store.retry import RetryPolicy


@dataclass(frozen=True, slots=True)
class ResilienceSettings:
    """Everything that can be set about one remote store."""

    retry: RetryPolicy = field(default_factory=RetryPolicy)
    hedge: HedgePolicy = field(default_factory=HedgePolicy)
    limits: RequestLimits = field(default_factory=RequestLimits)
    part_bytes: int = 1 << 22
    """Ranges of twice this length and more are read in parts of about this length, side by side."""
    parts_at_once: int = 8
    """How many of them at a time."""


_NUMBERS: Final[Mapping[str, tuple[str, type[int] | type[float], float, float]]] = {
    "attempts": ("retry", int, 1, 100),
    "deadline_s": ("retry", float, 0, 86_400),
    "answer_s": ("limits", float, 0.001, 3_600),
    "least_bytes_per_s": ("limits", int, 1, 1 << 40),
    "part_bytes": ("", int, 1 << 16, 1 << 30),
    "parts_at_once": ("", int, 1, 64),
}
_KEYS: Final = (*_NUMBERS, "hedge")


def split_url(url: str) -> tuple[str, str, ResilienceSettings]:
    """The URL without our settings, how messages name the store (without credentials), and the settings.

    Raises StoreUnreachable on a setting that is unknown or out of range. http and https URLs keep their
    query: it is the server's.
    """
    parts = urlsplit(url)
    place = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme in ("http", "https"):
        return url, place, ResilienceSettings()
    settings = ResilienceSettings()
    for name, text in parse_qsl(parts.query, keep_blank_values=True):
        settings = _with(settings, name, text, place)
    return urlunsplit(parts._replace(query="", fragment="")), place, settings


def _with(settings: ResilienceSettings, name: str, text: str, place: str) -> ResilienceSettings:
    if name == "hedge" and text in ("on", "off"):
        burst = HedgePolicy().burst if text == "on" else 0
        return replace(settings, hedge=replace(settings.hedge, burst=burst))
    if name not in _NUMBERS:
        near = difflib.get_close_matches(name, _KEYS, n=1)
        meant = f" Did you mean {near[0]}?" if near and name != "hedge" else ""
        expected = "hedge is on or off" if name == "hedge" else f"settings are {', '.join(_KEYS)}"
        raise StoreUnreachable(
            f"{place[:200]!a} has the setting {name[:40]!a}, which is not understood: {expected}.{meant}",
            hint="Correct what follows '?' in the store's URL.",
        )
    part, kind, least, most = _NUMBERS[name]
    try:
        value = kind(text)
        if not (math.isfinite(value) and least <= value <= most):
            raise ValueError(text)
    except ValueError:
        raise StoreUnreachable(
            f"{place[:200]!a} sets {name} to {text[:40]!a}; it is a number from {least:g} to {most:g}.",
            hint="Correct what follows '?' in the store's URL.",
        ) from None
    change: dict[str, Any] = {name: value}
    if part == "retry":
        return replace(settings, retry=replace(settings.retry, **change))
    if part == "limits":
        return replace(settings, limits=replace(settings.limits, **change))
    return replace(settings, **change)
