r"""Characters written as escapes: `\u00e9` as JSON has it, `&eacute;` and `&#64;` as HTML does. Pure.

See docs/design/detect.md, "Normalisation".
"""

from __future__ import annotations

import functools
import html
from typing import Final

import re2

from stoker.intake.detect.options import byte_options

_UNIT: Final = rb"\\u[0-9A-Fa-f]{4}"
_ANY_UNICODE: Final = re2.compile(_UNIT, byte_options())
_UNICODE: Final = re2.compile(
    rb"[^\"'\\](?:" + _UNIT + rb")+|(?:" + _UNIT + rb"){2,}|" + _UNIT + rb"[^\"'\\]", byte_options()
)
"""One escape between quotes is an entry of a table of characters and no part of a word."""
_REFERENCE: Final = re2.compile(
    rb"&(?:#[0-9]{2,7}|#[xX][0-9A-Fa-f]{2,6}|[A-Za-z]{2,8}[0-9]{0,2});", byte_options()
)


def escapes(data: bytes) -> list[tuple[int, int, bytes]]:
    """Where each escape begins and ends, and the characters that it stands for; in order.

    What stands for no character or for one that controls stays as it is.
    """
    found: list[tuple[int, int, bytes]] = []
    if (first := _ANY_UNICODE.search(data)) is not None:
        begin = max(0, first.start() - 1)
        found += [(*match.span(), _unicode(match.group())) for match in _UNICODE.finditer(data, begin)]
    if b"&" in data and b";" in data:
        found += [(*match.span(), _referred(match.group())) for match in _REFERENCE.finditer(data)]
        found.sort()
    return [piece for piece in found if piece[2] != data[piece[0] : piece[1]]]


@functools.lru_cache(maxsize=4096)
def _unicode(escaped: bytes) -> bytes:
    """A row of escapes with what stands beside it; two for a character beyond the first plane are one."""
    first, last = escaped.index(b"\\u"), escaped.rindex(b"\\u") + 6
    units = b"".join(int(each, 16).to_bytes(2, "big") for each in escaped[first + 2 : last].split(b"\\u"))
    try:
        text = units.decode("utf-16-be")
    except UnicodeDecodeError:
        return escaped
    return escaped[:first] + text.encode() + escaped[last:] if _shows(text) else escaped


@functools.lru_cache(maxsize=4096)
def _referred(reference: bytes) -> bytes:
    text = html.unescape(reference.decode("ascii"))
    return text.encode(errors="replace") if _shows(text) else reference


def _shows(text: str) -> bool:
    """Whether no character of it controls: a line end or a zero byte would cut what stands around it."""
    return all(letter >= " " and not "\x7f" <= letter < "\xa0" for letter in text)
