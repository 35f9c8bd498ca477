"""Treated texts between the tasks of a preparation: one sealed intermediate a page, and the list of who is
held back. See docs/design/policy.md, "In a preparation".
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from stoker.core.canonical import JsonValue
from stoker.core.errors import MissingExtra
from stoker.intake import names_model
from stoker.intake.plan import START_ANEW, PreparationPlan
from stoker.intake.policy.treat import Treated
from stoker.intake.policy.treating import TreatingSettings, start_treating
from stoker.intake.task_errors import BrokenPlan
from stoker.intake.tasks import Making, Phase
from stoker.intake.workplace import Intermediate, Workplace
from stoker.spec.kinds import Kind

TREAT: Final = "treat"
HOLD: Final = "hold"

_ROW: Final = struct.Struct(">BQ")
_MAX_REASONS: Final = 255


@dataclass(frozen=True, slots=True)
class TreatedPage:
    """An open page: of each of its texts why it is held back ("" where it is not), and where it lies."""

    held: tuple[str, ...]
    counts: tuple[Mapping[str, int], ...]
    _ends: tuple[int, ...]
    _body: Intermediate

    def text(self, place: int) -> bytes:
        """The text at a place of the page; empty where it is held back."""
        start, end = self._ends[place], self._ends[place + 1]
        return bytes(self._body.read(start, end - start))


def encode_page(treated: Sequence[Treated]) -> tuple[dict[str, JsonValue], bytes]:
    """The facts and the body of a page's intermediate."""
    reasons = sorted({each.held for each in treated if each.held})[:_MAX_REASONS]
    places = {reason: place + 1 for place, reason in enumerate(reasons)}
    counts: dict[str, JsonValue] = {
        str(place): {kind.value: count for kind, count in each.counts.items()}
        for place, each in enumerate(treated)
        if each.counts
    }
    facts: dict[str, JsonValue] = {"texts": len(treated), "reasons": reasons, "counts": counts}
    rows = [_ROW.pack(places.get(each.held, 0), len(each.text)) for each in treated]
    return facts, b"".join([*rows, *(each.text for each in treated)])


def open_page(work: Workplace, page: int) -> TreatedPage:
    """The treated texts of a page. Raises BrokenPlan and what opening a sealed stream raises."""
    body = work.get(TREAT, page)
    try:
        facts: Any = body.facts
        texts, reasons = int(facts["texts"]), ("", *facts["reasons"])
        if not 0 <= texts * _ROW.size <= body.body_bytes:
            raise ValueError("no room for its rows")
        rows = list(_ROW.iter_unpack(body.read(0, texts * _ROW.size)))
        ends = [texts * _ROW.size]
        for _, length in rows:
            ends.append(ends[-1] + length)
        if ends[-1] != body.body_bytes:
            raise ValueError("another length")
        held = tuple(reasons[reason] for reason, _ in rows)
        counts = tuple(facts["counts"].get(str(place), {}) for place in range(texts))
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise BrokenPlan(f"{work.key(TREAT, page)} is no page of texts.", hint=START_ANEW) from error
    return TreatedPage(held, counts, tuple(ends), body)


def treat_phase(work: Workplace, amounts: Sequence[float], load: Callable[[int], Sequence[bytes]]) -> Phase:
    """A task for each page: its texts under the recipe's policy. What is held back is decided here, once."""
    recipe = work.plan.recipe

    def settings() -> TreatingSettings:
        require_same_model(work.plan)
        return TreatingSettings(
            recipe.policy.treatments,
            recipe.quality.normalise,
            recipe.policy.document_s,
            recipe.policy.worker_bytes,
            work.pseudonym_key(),
            recipe.policy.name_model,
        )

    def store(page: int, treated: list[Treated]) -> None:
        facts, body = encode_page(treated)
        work.put(TREAT, page, facts, body, first_stands=True)

    label = f"treat the texts of {work.plan.name}"
    return Phase(TREAT, label, "bytes", amounts, load, Making(start_treating, settings), store)


def require_same_model(plan: PreparationPlan) -> None:
    """Refuse to go on with another name model, or other libraries, than the plan was made with.

    Raises MissingExtra.
    """
    if plan.recipe.policy.name_model and plan.name_model != names_model.installed():
        raise MissingExtra(
            f"The preparation of {plan.name} was begun with the name model {plan.name_model}; installed is "
            f"{names_model.installed()}.",
            hint="Install the same on every machine that prepares, or start anew: prepare with --fresh.",
        )


def hold_phase(work: Workplace, page_of: Callable[[int], Sequence[int]], texts: int) -> Phase:
    """One task: a byte for each of the source's `texts`, 1 where it is held back, and counts by reason.

    `page_of` gives the numbers of the texts that a treated page holds, in order.
    """

    def load(_: int) -> tuple[dict[str, int], bytes]:
        reasons: dict[str, int] = {}
        held = bytearray(texts)
        for page in range(work.plan.pages):
            for number, why in zip(page_of(page), open_page(work, page).held, strict=True):
                if why:
                    held[number] = 1
                    reasons[why] = reasons.get(why, 0) + 1
        return reasons, bytes(held)

    def store(_: int, found: tuple[dict[str, int], bytes]) -> None:
        reasons, held = found
        work.put(HOLD, 0, {"held": dict(sorted(reasons.items()))}, held)

    label = f"hold back texts of {work.plan.name}"
    return Phase(HOLD, label, "steps", [1.0], load, None, store, here=True)


def redactions_of(pages: Iterable[TreatedPage]) -> dict[str, int]:
    """How many findings of each kind were treated in pages of texts."""
    total = dict.fromkeys((kind.value for kind in Kind), 0)
    for page in pages:
        for counts in page.counts:
            for kind, count in counts.items():
                total[kind] += count
    return total
