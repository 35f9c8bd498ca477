"""`stoker review`: terms on the command line, changes asked for, and approving exactly what was shown."""

from __future__ import annotations

from collections.abc import Callable

from stoker.core.errors import EXIT_USAGE, ConfigError
from stoker.intake.errors import ChangesAsked, GateShut, NotAllowed, OtherRequest, OutsideTerms
from stoker.intake.names_model import IDENTITY, MODEL
from stoker.ledger.errors import PermissionRefused
from support.cli_home import PREPARE, CliHome

DAY_S = 86_400.0
HomeAt = Callable[[str], CliHome]


def test_a_request_goes_through_terms_changes_and_an_approval_of_what_was_shown(home_at: HomeAt) -> None:
    home = home_at("source")
    ask = ("review", "request", "notes", "--purpose", "research")
    (early,) = home.data(*ask, "--before-scan")["reviews"]
    assert (early["state"], early["scan_digest"]) == ("requested", "")
    home.refused(
        GateShut, "review", "approve", early["id"], "--digest", early["request_digest"], by="decider"
    )

    home.stoker("review", "scan", "notes")
    (bound,) = home.data("review", "bind", early["id"])["reviews"]
    assert bound["state"] == "scanned"
    shown = early["request_digest"]
    home.refused(OtherRequest, "review", "approve", early["id"], "--digest", shown, by="decider")
    home.stoker("review", "approve", early["id"], by="decider", code=EXIT_USAGE)
    home.stoker("review", "changes", early["id"], "--reason", "name the run", by="decider")
    told = home.refused(ChangesAsked, *PREPARE)
    assert "name the run" in told
    assert f"--answers {early['id']}" in told

    narrow = ("--answers", early["id"], "--only-run", "nightly", "--least-protection", "tls")
    (asked,) = home.data(*ask, *narrow)["reviews"]
    assert asked["answers"] == early["id"]
    assert asked["terms"]["runs"] == ["nightly"]
    text = home.stoker("review", "show", asked["id"]).out
    for line in ("only runs", "nightly", "links at least", "tls", "mask", asked["request_digest"]):
        assert line in text
    home.stoker("review", "approve", asked["id"], "--digest", asked["request_digest"][:16], by="decider")
    assert home.data(*PREPARE)["found"] is False


def test_a_recipe_in_yaml_or_with_a_hash_is_refused_and_nothing_is_asked(home_at: HomeAt) -> None:
    home = home_at("source")
    home.stoker("review", "scan", "notes")
    ask = ("review", "request", "notes", "--purpose", "research", "--recipe")
    (home.place / "recipe.yaml").write_text("policy: !!python/object/apply:os.system ['touch called']\n")
    assert "is YAML" in home.refused(ConfigError, *ask, "recipe.yaml")
    (home.place / "recipe.toml").write_text('[policy.kinds]\nphone = "sha256"\n')
    assert "undone by whoever tries every value" in home.refused(ConfigError, *ask, "recipe.toml")
    assert not (home.place / "called").exists()
    assert home.records()["review"] == 0


def test_only_the_recipe_that_was_named_prepares(home_at: HomeAt) -> None:
    home = home_at("source")
    home.stoker("review", "scan", "notes")
    (home.place / "recipe.toml").write_text("vocabulary = 300\nsequence_tokens = 32\nchunk_log2 = 14\n")
    (asked,) = home.data(
        *("review", "request", "notes", "--purpose", "research", "--recipe", "recipe.toml", "--only-recipe")
    )["reviews"]
    home.approve(asked)
    home.refused(OutsideTerms, *PREPARE)
    prepare = ("prepare", "text", "--source", "notes", "--purpose", "research", "--recipe", "recipe.toml")
    home.stoker(*prepare)


def test_a_request_and_its_scan_say_whether_preparing_uses_the_name_model(home_at: HomeAt) -> None:
    home = home_at("source")
    assert "name_model = true, not else" in home.stoker("review", "scan", "notes").out
    ask = ("review", "request", "notes", "--purpose", "research")
    (plain,) = home.data(*ask)["reviews"]
    assert plain["name_model"] is False
    assert "not used: what only it sees stays" in home.stoker("review", "show", plain["id"]).out
    (home.place / "recipe.toml").write_text(
        "vocabulary = 300\nsequence_tokens = 32\nchunk_log2 = 14\nheldout_fraction = 0.1\n"
        "[policy]\nname_model = true\n"
    )
    (asked,) = home.data(*ask, "--recipe", "recipe.toml", "--only-recipe")["reviews"]
    assert asked["name_model"] is True
    assert f"{MODEL}: what only it sees is treated too" in home.stoker("review", "show", asked["id"]).out
    home.approve(asked)
    prepare = ("prepare", "text", "--source", "notes", "--purpose", "research", "--recipe", "recipe.toml")
    figures = home.data(*prepare)["record"]["figures"]
    assert figures["name_model"].startswith(IDENTITY)
    assert "quarantined" not in figures or figures["quarantined"] == {}


def test_only_a_reviewer_looks_at_rows(home_at: HomeAt) -> None:
    home = home_at("prepared")
    home.refused(NotAllowed, "dataset", "sample", "text")
    assert "dataset.sample" not in home.acts()
    home.stoker("dataset", "sample", "text", by="decider")
    assert home.acts()[-1] == "dataset.sample"


def test_only_a_reviewer_sees_lines_around_findings_and_it_is_recorded(home_at: HomeAt) -> None:
    home = home_at("source")
    assert home.data("review", "scan", "notes")["examples"] == []
    told = home.stoker("review", "scan", "notes").out
    assert "stoker review examples notes" in told
    home.refused(PermissionRefused, "review", "examples", "notes")
    assert "review.examples" not in home.acts()
    (first, *_) = home.data("review", "examples", "notes", by="decider")["examples"]
    assert first["text"] not in told
    assert home.acts()[-1] == "review.examples"


def test_an_approval_whose_time_is_over_is_called_expired(home_at: HomeAt) -> None:
    home = home_at("prepared")
    for late_s, expired in ((0.0, False), (400 * DAY_S, True)):
        (review,) = home.data("review", "ls", ahead_s=late_s)["reviews"]
        assert (review["state"], review["expired"]) == ("approved", expired)
        shown = home.stoker("review", "show", review["id"], ahead_s=late_s).out
        assert ("approved, expired" in shown) is expired
