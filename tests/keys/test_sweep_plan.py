"""What a sweep must do: the pure plan, judged by properties over any facts and any times of sweeping."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from stoker.keys.refs import KekRef
from stoker.keys.sweep_plan import (
    LEADS_S,
    About,
    CarryOut,
    KeyFacts,
    Notice,
    Prove,
    Retire,
    SweepInstruction,
    Warn,
    imminent,
    plan_sweep,
)

DAY_S = 86_400.0
NOW_S = 1_700_000_000.0
REF = KekRef("dataset/text/v1", 1)
TIMES = st.one_of(st.none(), st.floats(NOW_S - 100 * DAY_S, NOW_S + 100 * DAY_S))
PEOPLE = st.sampled_from([None, "ada", "bob"])


@st.composite
def a_key(draw: st.DrawFn, number: int = 1) -> KeyFacts:
    destroyed = draw(st.booleans())
    return KeyFacts(
        KekRef(f"dataset/text/v{number}", 1),
        wraps=not destroyed and draw(st.booleans()),
        expires_s=draw(TIMES),
        wraps_until_s=draw(TIMES),
        destroy_at_s=None if destroyed else draw(TIMES),
        destroyed=destroyed,
        proved=destroyed and draw(st.booleans()),
        owner=draw(PEOPLE),
        reviewer=draw(PEOPLE),
    )


@st.composite
def some_keys(draw: st.DrawFn) -> list[KeyFacts]:
    return [draw(a_key(number)) for number in range(1, draw(st.integers(1, 5)) + 1)]


def after(facts: KeyFacts, instruction: SweepInstruction) -> KeyFacts:
    """The facts of the next sweep when this one was carried out."""
    match instruction:
        case Warn(notice=notice):
            return replace(facts, given=facts.given | {notice})
        case Retire():
            return replace(facts, wraps=False)
        case CarryOut():
            return replace(facts, destroyed=True, wraps=False, destroy_at_s=None)
        case Prove():
            return replace(facts, proved=True)


def swept(keys: list[KeyFacts], now_s: float) -> tuple[list[KeyFacts], tuple[SweepInstruction, ...]]:
    plan = plan_sweep(keys, now_s)
    by_ref = {each.ref: each for each in keys}
    for instruction in plan:
        by_ref[instruction.ref] = after(by_ref[instruction.ref], instruction)
    return list(by_ref.values()), plan


@given(some_keys(), st.randoms(use_true_random=False))
def test_the_order_of_the_facts_changes_nothing(keys: list[KeyFacts], random: object) -> None:
    mixed = list(keys)
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert plan_sweep(mixed, NOW_S) == plan_sweep(keys, NOW_S)


@given(some_keys())
def test_what_was_swept_is_not_swept_again(keys: list[KeyFacts]) -> None:
    left, _ = swept(keys, NOW_S)
    assert plan_sweep(left, NOW_S) == ()


@given(some_keys(), st.lists(st.floats(0, 30 * DAY_S), min_size=1, max_size=8))
@settings(max_examples=200)
def test_over_any_sweeps_each_warning_is_given_once_and_nothing_dies_early(
    keys: list[KeyFacts], pauses: list[float]
) -> None:
    now_s, told, dead = NOW_S, set(), {each.ref for each in keys if each.destroyed}
    for pause in pauses:
        now_s += pause
        before = {each.ref: each for each in keys}
        keys, plan = swept(keys, now_s)
        for instruction in plan:
            facts = before[instruction.ref]
            match instruction:
                case Warn(ref=ref, notice=notice):
                    assert (ref, notice) not in told, "the same warning twice"
                    assert now_s < notice.at_s or notice.about is About.DESTRUCTION
                    assert ref not in dead
                    told.add((ref, notice))
                case Retire(at_s=at_s):
                    assert facts.wraps
                    assert now_s >= at_s
                    assert at_s in (facts.expires_s, facts.wraps_until_s)
                case CarryOut(ref=ref, at_s=at_s):
                    assert facts.destroy_at_s == at_s <= now_s, "before its window was over"
                    assert ref not in dead
                    dead.add(ref)
                case Prove(ref=ref):
                    assert ref in dead
    assert {each.ref for each in keys if each.destroyed} == dead
    assert not [
        each
        for each in keys
        if each.wraps and each.expires_s is not None and now_s >= each.expires_s and each.destroy_at_s is None
    ]


@given(st.floats(1.0, 29 * DAY_S))
def test_owner_and_reviewer_are_warned_before_an_expiry_however_seldom_it_is_swept(left_s: float) -> None:
    key = KeyFacts(REF, expires_s=NOW_S + left_s, owner="ada", reviewer="bob")
    (warning,) = plan_sweep([key], NOW_S)
    assert isinstance(warning, Warn)
    assert (warning.to, warning.notice.about, warning.notice.at_s) == (
        ("ada", "bob"),
        About.EXPIRY,
        NOW_S + left_s,
    )
    assert warning.notice.lead_s == min(lead for lead in LEADS_S if lead >= left_s)


def test_each_lead_is_announced_and_an_end_brought_forward_is_announced_anew() -> None:
    key = KeyFacts(REF, expires_s=NOW_S + 40 * DAY_S, owner="ada", reviewer="ada")
    given_leads = []
    for day in range(41):
        (key,), plan = swept([key], NOW_S + day * DAY_S)
        given_leads += [each.notice.lead_s for each in plan if isinstance(each, Warn)]
    assert given_leads == list(LEADS_S)
    sooner = replace(key, wraps=True, expires_s=NOW_S + 41 * DAY_S)
    (warning,) = plan_sweep([sooner], NOW_S + 40.5 * DAY_S)
    assert isinstance(warning, Warn)
    assert warning.to == ("ada",)


def test_a_key_past_its_time_is_retired_for_the_end_that_came_first() -> None:
    key = KeyFacts(REF, expires_s=NOW_S - 1, wraps_until_s=NOW_S - 2)
    assert plan_sweep([key], NOW_S) == (Retire(REF, About.ROTATION, NOW_S - 2),)
    assert plan_sweep([replace(key, wraps=False)], NOW_S) == ()


def test_a_pending_destruction_is_announced_once_and_carried_out_and_proved_when_due() -> None:
    key = KeyFacts(REF, destroy_at_s=NOW_S, owner="ada", reviewer="bob")
    early = NOW_S - 6 * DAY_S
    assert imminent(key, early) == (Notice(About.DESTRUCTION, NOW_S, 0.0),)
    (key,), plan = swept([key], early)
    assert [type(each) for each in plan] == [Warn]
    assert plan_sweep([key], NOW_S - 1e-3) == ()
    assert plan_sweep([key], NOW_S) == (CarryOut(REF, NOW_S), Prove(REF))


def test_a_death_whose_proof_did_not_hold_is_tried_again() -> None:
    dead = KeyFacts(REF, wraps=False, destroyed=True, expires_s=NOW_S + DAY_S)
    assert plan_sweep([dead], NOW_S) == (Prove(REF),)
    assert plan_sweep([replace(dead, proved=True)], NOW_S) == ()
    assert imminent(dead, NOW_S) == ()


def test_a_death_that_a_vault_has_only_scheduled_is_tried_again_on_that_day() -> None:
    unusable = KeyFacts(REF, wraps=False, destroyed=True, proved=True, erased_s=NOW_S)
    assert plan_sweep([unusable], NOW_S - 1e-3) == ()
    assert plan_sweep([unusable], NOW_S) == (Prove(REF),)
