"""The shapes that words beside it make personal data of: names, organisations, labels, streets. Plain data.

See docs/design/detect.md, "Kinds". What has a shape of its own is in `patterns`.
"""

from __future__ import annotations

from typing import Final

from stoker.intake.detect import addresses, columns, contexts, correspondence, fields, firms, streets
from stoker.intake.detect.shape import Pattern
from stoker.spec.kinds import Kind

ANCHORS: Final = "words that announce an address"
"""The name of the pattern whose spans are places to look at, not findings."""

WORD_PATTERNS: Final[tuple[Pattern, ...]] = (
    Pattern(
        "name after words",
        Kind.PERSON,
        contexts.PERSON_BEFORE + contexts.NAME,
        contexts.person_after,
        trigger=contexts.PERSON_BEFORE_TRIGGER,
    ),
    Pattern(
        "name before words",
        Kind.PERSON,
        contexts.NAME + contexts.PERSON_AFTER,
        contexts.person_before,
        trigger=contexts.PERSON_AFTER_TRIGGER,
    ),
    Pattern(
        "organisation after words",
        Kind.ORGANISATION,
        contexts.FIRM_BEFORE + contexts.FIRM,
        contexts.firm_after,
        trigger=contexts.FIRM_BEFORE_TRIGGER,
    ),
    Pattern(
        "organisation before words",
        Kind.ORGANISATION,
        contexts.FIRM + contexts.FIRM_AFTER,
        contexts.firm_before,
        trigger=contexts.FIRM_AFTER_TRIGGER,
    ),
    Pattern(
        "organisation with a legal form",
        Kind.ORGANISATION,
        firms.WITH_FORM,
        firms.with_form,
        trigger=firms.WITH_FORM_TRIGGER,
    ),
    Pattern(
        "organisation by its first word",
        Kind.ORGANISATION,
        firms.FIRST_WORD,
        firms.first_word,
        trigger=firms.FIRST_WORD_TRIGGER,
    ),
    Pattern(
        "place after words",
        Kind.LOCATION,
        contexts.PLACE_BEFORE + contexts.PLACE,
        contexts.place_after,
        trigger=contexts.PLACE_BEFORE_TRIGGER,
    ),
    Pattern(
        "nationality after words",
        Kind.NATIONALITY,
        rb"(?i)\b(?:proud|great|fellow|authentic|traditional|typical) [a-z]{4,16}",
        contexts.nationality,
        trigger=rb"(?i)(?:proud|fellow|authentic|traditional|typical|great) [a-z]",
    ),
    Pattern(
        "nationality beside the word for it",
        Kind.NATIONALITY,
        contexts.NATIONAL,
        contexts.national,
        trigger=contexts.NATIONAL_TRIGGER,
    ),
    Pattern(
        "job on a line",
        Kind.TITLE,
        contexts.JOB_LINE,
        contexts.job_alone,
        trigger=contexts.JOB_TRIGGER,
    ),
    Pattern(
        "job after words",
        Kind.TITLE,
        rb"(?i)\b(?:as|job is|job title|job title:|profession:|occupation:)(?: an?"
        rb"| the)? [a-z][a-z,'\- ]{2,60}",
        contexts.job_after,
        trigger=rb"(?i)work[a-z]* (?:as|for|at)|job (?:is|title)|profession|occupation|employed as",
    ),
    Pattern(
        ANCHORS,
        Kind.STREET_ADDRESS,
        addresses.ANNOUNCEMENT,
        addresses.announcement,
        addresses.ANNOUNCEMENT_TRIGGER,
    ),
    Pattern(
        "form of address and name",
        None,
        correspondence.ADDRESSED,
        correspondence.addressed,
    ),
    Pattern(
        "name under closing words",
        Kind.PERSON,
        correspondence.CLOSED,
        correspondence.closed,
        trigger=correspondence.CLOSED_TRIGGER,
    ),
    Pattern(
        "name before an address in brackets",
        Kind.PERSON,
        correspondence.WRITTEN_TO,
        correspondence.written_to,
    ),
    Pattern("name after a greeting", Kind.PERSON, correspondence.INTRODUCED, correspondence.introduced),
    Pattern("words behind a label", None, fields.WORDS, fields.words),
    Pattern("number behind a label", None, fields.NUMBERS, fields.numbers),
    Pattern("cells under names of columns", None, columns.HEADER, columns.cells),
    Pattern(
        "street word, name and number",
        Kind.STREET_ADDRESS,
        streets.KIND_FIRST,
        streets.kind_first,
        trigger=streets.KIND_FIRST_TRIGGER,
    ),
    Pattern(
        "number, street word and name",
        Kind.STREET_ADDRESS,
        streets.NUMBER_FIRST,
        streets.number_first,
        trigger=streets.NUMBER_FIRST_TRIGGER,
    ),
    Pattern(
        "number, name and street word",
        Kind.STREET_ADDRESS,
        streets.KIND_LAST,
        streets.kind_last,
        trigger=streets.KIND_LAST_TRIGGER,
    ),
)
