"""One Unicode form for every document. See docs/design/quality.md."""

from __future__ import annotations

import unicodedata
from typing import Literal

from stoker.spec.quality import Normalisation


def normalised(document: bytes, form: Normalisation) -> bytes:
    """The UTF-8 document in the Unicode form `form`; the very same object when nothing changes."""
    if form is Normalisation.NONE or document.isascii():
        return document
    text = document.decode()
    name: Literal["NFC", "NFKC"] = "NFC" if form is Normalisation.NFC else "NFKC"
    return document if unicodedata.is_normalized(name, text) else unicodedata.normalize(name, text).encode()
