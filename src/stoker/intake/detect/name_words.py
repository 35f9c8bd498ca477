"""How well a capitalised word can be a part of a person's name, by lists and by how surnames end. Pure.

See docs/design/detect.md, "Names".
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from stoker.intake.detect.lexicon import Mark

_GIVEN, _SURNAME = int(Mark.GIVEN), int(Mark.SURNAME)
_COMMON: Final = int(Mark.COMMON | Mark.TECHNICAL)
_OTHERS: Final = int(Mark.COMPANY_FORM | Mark.NATIONALITY | Mark.MONTH | Mark.WEEKDAY)
_PARTS_OF_OTHERS: Final = int(Mark.STREET | Mark.COMPANY_WORD)

_ENDING: Final = re.compile(
    (
        "(?:"
        "ov|ova|ev|eva|in|ina|yov|sky|skiy|ski|ska|cki|cka|wicz|vich|vić|ović|ević|ič|ić|čić|šić|ssen"
        "|rsen|nsen|lsen|ksen|tsen|dsen|gsen|sson|rson|nson|ldsson|dóttir|dottir|datter|nen|lainen"
        "|escu|eanu|yan|ian|enko|chuk|shvili|dze|poulos|idis|akis|oglu|oğlu|czyk|ák|ský|ová|ková|ický"
        "|berg|ström|qvist|kvist|lund|strand|dahl|mann|bauer|meier|meyer|maier|hoffer|stein|bach|huber"
        "|inger|inho|eira|ães|ões|ini|elli|etti|otti|ucci|ello|illo|accio|ese|ault|eau|oux|ier|ard"
        "|ieux|huis|stra|sma|inga|man|sveld|hoven|dijk|yev|yeva|iyev|ayev|ayeva|liyev|akov|jeff|off"
        "|adze"
        r")\Z"
    ).encode()
)
"""How surnames of some thirty languages end."""

NO_NAMES: Final = frozenset(
    b"Dear Hi Hello Hey The My Our In On At By For From To And But See Thanks Thank Copyright Author Authors "
    b"When Why Where What Who How If This That Is Are Was So As With Re Bot User Sir Both Ask Tell Call Meet "
    b"Let Please Sincerely Regards Yours Best Kind Sister Brother Port Original Also Additional Some Many "
    b"All New".split()
)
"""Words that begin a sentence or a letter; as the first word of a name they are not taken for one."""


class Word(NamedTuple):
    """A capitalised word of a run."""

    start: int
    end: int
    marks: int
    text: bytes


def name_like(word: Word) -> float:
    """How well a capitalised word can be a part of a person's name: 0 not, 2 surely."""
    if word.marks & _OTHERS and not word.marks & _GIVEN:
        return 0.0
    if len(word.text) == 1:
        return 0.4
    common = bool(word.marks & _COMMON)
    if word.marks & _GIVEN:
        return 0.6 if common else 2.0
    if word.marks & _SURNAME:
        return 0.5 if common else 1.5
    if common or word.marks & _PARTS_OF_OTHERS:
        return 0.1
    if word.text.isupper() and word.text.isascii():
        return 0.0
    return 1.2 if _ENDING.search(word.text) else 0.7
