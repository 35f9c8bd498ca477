"""Characters that are not what they look like, typed in by hand.

See docs/design/detect.md, "Normalisation"."""

from __future__ import annotations

from typing import Final

INVISIBLE: Final = frozenset(
    "\u00ad\u034f\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061"
    "\u2062\u2063"
    "\u2064\u2066\u2067\u2068\u2069\ufeff\ufe00\ufe01\ufe0e\ufe0f"
)
"""Characters without a shape: soft hyphen, joiners, marks of direction, byte order mark, variation
selectors."""

PUNCTUATION: Final = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b\u2032\u02bc\u0060", "'"),
    **dict.fromkeys("\u201c\u201d\u201e\u201f\u2033\u00ab\u00bb", '"'),
    **dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d", "-"),
    **dict.fromkeys("\u2028\u2029\u0085", "\n"),
    **dict.fromkeys(
        "\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000\u00a0",
        " ",
    ),
    "\u2024": ".",
    "\ufe52": ".",
    "\uff0e": ".",
    "\u3002": ".",
    "\ufe6b": "@",
    "\uff20": "@",
    "\u2215": "/",
    "\u2044": "/",
}
"""Quotes, dashes, blanks and stops as ASCII has them."""

LOOKALIKES: Final = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0455\u0458\u04bb\u0501\u051b\u051d\u04cf\u0432"
    "\u043a\u043c\u043d\u0442"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0406\u0405\u0408"
    "\u03b1\u03b5\u03b9\u03bf\u03bd\u03c1\u03c4\u03c5\u03c7\u03ba\u0391\u0392\u0395\u0396\u0397\u0399"
    "\u039a\u039c\u039d\u039f\u03a1"
    "\u03a4\u03a5\u03a7",
    "aeopcyxisjhdqwlBkmHTABEKMHOPCTYXISJaeiovptuxkABEZHIKMNOPTYX",
)
"""Cyrillic and Greek letters with the shape of a Latin one; used only inside a word that has Latin letters
too."""
