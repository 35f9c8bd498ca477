"""The gate under attack, case by case: no decision, swapped records, crashing recognisers, hashes, YAML."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stoker.core.config import Layer, load, read_layer
from stoker.core.errors import ConfigError, StokerError
from stoker.core.progress import SILENT
from stoker.intake import errors
from stoker.intake.importing import import_source
from stoker.intake.policy import treating
from stoker.intake.policy.pseudonym import Pseudonyms
from stoker.intake.policy.treat import Treated, treat
from stoker.intake.reading import DatasetRows
from stoker.intake.review_request import policy_digest
from stoker.keys.partition import BackendKeySource
from stoker.keys.refs import KekRef, Purpose
from stoker.spec.kinds import Kind
from stoker.spec.policy import Treatment
from stoker.spec.recipe import ImportSpec, PolicySpec, RecipeSpec
from support.intake_home import IntakeHome, approve_source, intake_home
from support.letters import LETTERS, approve_letters, objects_of, plan_letters, prepare_letters, write_letters

MASKING = PolicySpec((Kind.EMAIL,))
RECIPE = dataclasses.replace(LETTERS, policy=MASKING)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[IntakeHome]:
    write_letters(tmp_path / "letters")
    with intake_home(tmp_path / "home") as made:
        yield made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "letters"


def bring(home: IntakeHome, folder: Path) -> None:
    import_source(
        "letters",
        folder,
        ImportSpec(),
        actor="asker",
        ledger=home.ledger,
        backend=home.backend,
        store=home.store,
        progress=SILENT,
        clock=home.clock,
        locks=home.locks,
    )


def text_of(home: IntakeHome) -> str:
    """Every sample of the training split, as the dataset's own tokenizer reads it."""
    from stoker.intake.tokenizer import load_tokenizer

    (record,) = home.ledger.catalogue.datasets("mail")
    rows = DatasetRows.open(record, ledger=home.ledger, backend=home.backend, store=home.store)
    tokenizer_json = rows.tokenizer_json()
    assert tokenizer_json is not None
    tokenizer = load_tokenizer(tokenizer_json)
    split = rows.superblock.splits[0]
    tokens: list[int] = []
    for index in range(split.samples):
        row = rows.row(split, index)
        tokens += row.columns["tokens"][0].tolist()[:-1]
    return str(tokenizer.decode(tokens, skip_special_tokens=False))


def test_atk_035_without_a_signed_review_nothing_is_prepared_or_written(
    home: IntakeHome, folder: Path
) -> None:
    bring(home, folder)
    before, keys = home.objects(""), {str(each.ref) for each in home.backend.list_keks()}
    with pytest.raises(errors.ReviewMissing):
        prepare_letters(home, RECIPE)
    assert home.objects("") == before
    assert {str(each.ref) for each in home.backend.list_keks()} == keys


def test_atk_037_a_record_swapped_between_review_and_preparation_is_refused(
    home: IntakeHome, folder: Path
) -> None:
    approve_letters(home, folder, RECIPE)
    (folder / "letter-07.txt").write_text("other words\n")
    bring(home, folder)
    with pytest.raises(errors.ReviewStale):
        prepare_letters(home, RECIPE)
    assert home.objects("datasets") == set()


def test_atk_037_a_sealed_record_swapped_under_an_approved_source_is_refused(
    home: IntakeHome, folder: Path
) -> None:
    """The bytes of another import of the same source, put in the place of the approved ones."""
    bring(home, folder)
    (folder / "letter-07.txt").write_text("other words\n")
    bring(home, folder)
    old, new = home.ledger.catalogue.sources("letters")
    approve_source(home, "letters", RECIPE.policy)
    place = home.store_dir / "sources/letters"
    (place / new.version / "00000000.stk").write_bytes((place / old.version / "00000000.stk").read_bytes())
    with pytest.raises(StokerError, match=r"00000000\.stk"):
        prepare_letters(home, RECIPE)
    assert home.ledger.catalogue.datasets("mail") == ()


def failing(deed: Callable[[], object]) -> Callable[..., Treated]:
    """`treat`, but for the letter to person 5, over which the recogniser does `deed`."""

    def run(data: bytes, *more: object) -> Treated:
        if b"person5@" in data:
            deed()
        return treat(data, *more)  # type: ignore[arg-type]

    return run


def hang() -> None:
    time.sleep(600)


def crash() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def fail() -> None:
    raise RecursionError("a recogniser with a fault")


def swallow_memory() -> None:
    bytearray(1 << 34)


@pytest.mark.parametrize(
    ("deed", "reason"),
    [(hang, "timed_out"), (crash, "died"), (fail, "failed"), (swallow_memory, "failed")],
)
def test_atk_043_what_a_recogniser_cannot_take_is_quarantined_and_counted(
    home: IntakeHome,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    deed: Callable[[], None],
    reason: str,
) -> None:
    patient = dataclasses.replace(MASKING, document_s=1.0 if deed is hang else 120.0)
    recipe = dataclasses.replace(RECIPE, policy=patient)
    approve_letters(home, folder, recipe)
    monkeypatch.setattr(treating, "treat", failing(deed))
    record = prepare_letters(home, recipe).record
    quarantined = record.figures["quarantined"]
    assert quarantined[f"scan {reason}"] >= 1
    if deed is not hang:  # on a loaded machine more than one may be too slow
        assert quarantined == {f"scan {reason}": 1}
        assert record.figures["train"]["documents"] + record.figures["heldout"]["documents"] == 23


def test_a_document_with_a_forbidden_kind_is_left_out_and_counted(home: IntakeHome, folder: Path) -> None:
    (folder / "letter-03.txt").write_text("pay 4111 1111 1111 1111 tomorrow, " * 40)
    recipe = dataclasses.replace(LETTERS, policy=PolicySpec((), {Kind.CARD: Treatment.QUARANTINE}))
    approve_letters(home, folder, recipe)
    record = prepare_letters(home, recipe).record
    assert record.figures["quarantined"] == {"holds card": 1}
    assert "tomorrow" not in text_of(home)


def test_pseudonyms_are_the_same_in_the_whole_dataset_and_gone_with_its_key(
    home: IntakeHome, folder: Path
) -> None:
    for number in range(24):
        path = folder / f"letter-{number:02}.txt"
        path.write_text(f"Carbon copy to Common@example.org\n{path.read_text()}Yours, common@example.org\n")
    recipe = dataclasses.replace(LETTERS, policy=PolicySpec((), {Kind.EMAIL: Treatment.PSEUDONYM}))
    approve_letters(home, folder, recipe)
    plan_letters(home, recipe)
    from stoker.core.ids import VersionId
    from stoker.intake.dataset_writer import DatasetPlace
    from stoker.intake.plan import read_plan
    from stoker.intake.review_request import review_digest

    (version,) = {key.split("/")[2] for key in home.objects("datasets")}
    place = DatasetPlace(
        "mail",
        VersionId(version),
        KekRef(f"dataset/mail/{version}", 1),
        review_digest(home.ledger.catalogue.reviews()[0]),
    )
    keys = BackendKeySource(home.backend)
    plan = read_plan(place, home.store, keys)
    key = keys.open_partition_key(place.kek, bytes.fromhex(plan.pseudonym_key), Purpose.DATASET)
    expected = Pseudonyms(key).pseudonym(Kind.EMAIL, b"common@example.org").decode()
    assert prepare_letters(home, recipe).resumed
    text = text_of(home)
    documents = text.count("Carbon copy to ")
    assert documents > 10
    assert text.count(expected) == 2 * documents
    assert "@example.org" not in text
    (record,) = home.ledger.catalogue.datasets("mail")
    assert not any("/work/" in name for name in objects_of(home, record)), (
        "the wrapped key went with the plan"
    )


@pytest.mark.parametrize("word", ["sha256", "md5", "hash", "SHA-1", "blake2b", "salted_hash", "crc32"])
@pytest.mark.parametrize("kind", ["phone", "email", "national_id", "iban"])
def test_atk_045_a_hash_that_can_be_undone_by_trying_is_refused_by_name(word: str, kind: str) -> None:
    with pytest.raises(ConfigError, match=rf"policy\.kinds\.{kind}: '{word}' is undone by") as refused:
        load(RecipeSpec, [Layer("recipe.toml", {"policy": {"kinds": {kind: word}}})])
    assert "HMAC under a key that is destroyed" in refused.value.message


@pytest.mark.parametrize("kind", ["age", "title", "nationality"])
def test_atk_045_pseudonyms_of_a_handful_of_values_are_refused(
    home: IntakeHome, folder: Path, kind: str
) -> None:
    policy = PolicySpec((), {Kind(kind): Treatment.PSEUDONYM})
    with pytest.raises(ConfigError, match="how often each pseudonym comes"):
        load(RecipeSpec, [Layer("recipe.toml", {"policy": {"kinds": {kind: "pseudonym"}}})])
    with pytest.raises(ConfigError, match="how often each pseudonym comes"):
        approve_letters(home, folder, dataclasses.replace(LETTERS, policy=policy))


def test_atk_045_what_cannot_be_generalised_and_unknown_words_are_refused() -> None:
    with pytest.raises(ConfigError, match="nothing more general"):
        load(RecipeSpec, [Layer("recipe.toml", {"policy": {"kinds": {"email": "generalise"}}})])
    with pytest.raises(ConfigError, match="did you mean 'remove'"):
        load(RecipeSpec, [Layer("recipe.toml", {"policy": {"kinds": {"email": "remov"}}})])
    with pytest.raises(ConfigError, match="did you mean 'email'"):
        load(RecipeSpec, [Layer("recipe.toml", {"policy": {"kinds": {"emial": "mask"}}})])


BOMBS = {
    "a call": "policy: !!python/object/apply:os.system ['touch called']\n",
    "billions of laughs": "a: &a [x,x,x]\nb: &b [*a,*a,*a]\nc: &c [*b,*b,*b]\npolicy: *c\n",
    "duplicate keys": "---\nseed: 1\nseed: 2\n",
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("file", ["recipe.yaml", "recipe.yml", "recipe.toml"])
def test_atk_053_yaml_is_never_read(
    tmp_path: Path, name: str, file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "yaml", raising=False)
    path = tmp_path / file
    path.write_text(BOMBS[name])
    with pytest.raises(ConfigError, match="is YAML" if file != "recipe.toml" else "is YAML|is not TOML"):
        read_layer(path)
    assert not (tmp_path / "called").exists()
    assert "yaml" not in sys.modules


def test_atk_053_no_module_of_ours_imports_a_yaml_parser() -> None:
    sources = (Path(__file__).parents[3] / "src/stoker").rglob("*.py")
    assert [path.name for path in sources if "import yaml" in path.read_text()] == []


def test_atk_053_toml_that_nests_without_end_or_repeats_a_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(ConfigError, match=r"nests too deep|not TOML"):
        read_layer(path)
    path.write_text("seed = 1\nseed = 2\n")
    with pytest.raises(ConfigError, match="not TOML"):
        read_layer(path)


def test_a_policy_is_named_by_what_it_does_and_an_old_one_as_it_was() -> None:
    old = tuple(Kind(word) for word in ("email", "phone", "ipv4", "ipv6", "card", "iban", "secret"))
    policy = PolicySpec((*old, Kind.URL_CREDENTIALS))
    assert policy_digest(policy) == "b8e1038cdcd6b1f32d67769a1dff30f4ef0b06f91fa29a06dc7c2efcb0151b10"
    words = dict.fromkeys(policy.redact, Treatment.MASK)
    assert policy_digest(PolicySpec((), words)) == policy_digest(policy)
    other = PolicySpec(policy.redact, {Kind.EMAIL: Treatment.PSEUDONYM})
    assert policy_digest(other) != policy_digest(policy)
    assert policy_digest(dataclasses.replace(policy, document_s=1.0)) == policy_digest(policy)
