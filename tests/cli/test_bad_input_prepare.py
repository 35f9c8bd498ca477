"""What bad input gets in preparation: names, recipes, too little text, full disks, Ctrl-C."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.core.errors import BadName, ConfigError, DiskFull
from stoker.intake.errors import OtherPolicy, TooLittleText
from support.cli_home import PREPARE, CliHome, almost_full, small_disk, wait_until

HomeAt = Callable[[str], CliHome]


@pytest.fixture
def home(home_at: HomeAt) -> CliHome:
    return home_at("approved")


@pytest.mark.parametrize("name", ["../text", "a/b"])
def test_a_dataset_name_that_is_a_path_is_refused(home: CliHome, name: str) -> None:
    before = home.contents()
    said = home.refused(BadName, "prepare", name, *PREPARE[2:])
    assert f"{name!r} is no dataset name." in said
    assert "it is not a path" in said
    assert home.contents() == before
    assert not (home.root.parent / "text").exists()


def test_every_mistake_of_a_recipe_is_named_at_once(home: CliHome) -> None:
    (home.place / "recipe.toml").write_text(
        'vocabulary = 3\nsequence_token = 64\n[policy]\nredact = ["emial", "phone"]\n'
    )
    before = home.contents()
    recipe = ("--recipe", "recipe.toml")
    said = home.refused(ConfigError, *PREPARE[:6], *recipe, "chunk_log2=50")
    assert "4 mistakes" in said
    assert "recipe.toml: sequence_token: unknown key; did you mean 'sequence_tokens'?" in said
    assert "recipe.toml: policy.redact[0]: expected one of" in said
    assert "did you mean 'email'?" in said
    assert "vocabulary is 3; it must be 257" in said
    assert "chunk_log2 is 50; it must be 14 to 22" in said
    assert home.contents() == before


def test_a_recipe_that_redacts_less_than_was_approved_is_refused(home: CliHome) -> None:
    before = home.contents()
    said = home.refused(OtherPolicy, *PREPARE, 'policy.redact=["phone"]')
    assert "approved another policy than the one in this recipe." in said
    assert home.contents() == before


def test_too_little_text_says_how_much_one_sample_takes(home: CliHome) -> None:
    before = home.contents()
    said = home.refused(
        TooLittleText, *PREPARE, "sequence_tokens=8000", "chunk_log2=16", "heldout_fraction=0.01"
    )
    assert "The heldout split has" in said
    assert "one sample takes 8001." in said
    assert "lower sequence_tokens" in said
    assert home.contents() == before


def nothing_of_the_work_is_left(home: CliHome) -> bool:
    """One version, with nothing but what its manifest names."""
    (version,) = (home.store / "datasets/text").iterdir()
    return not (version / "work").exists()


@pytest.mark.parametrize("free_bytes", [0, 300_000, 500_000])
def test_a_disk_that_is_full_during_preparation_is_named_and_with_room_the_same_command_goes_on(
    home: CliHome, tmp_path: Path, free_bytes: int
) -> None:
    with small_disk(tmp_path / "disk", home) as small:
        with almost_full(tmp_path / "disk", free_bytes):
            said = small.refused(DiskFull, *PREPARE)
            assert f"No space is left on the file system that holds {small.root}" in said
            assert "Free some space" in said
        assert small.records()["dataset"] == 0
        report = small.data(*PREPARE)
        assert (report["found"], report["unfinished_removed"]) == (False, 0)
        assert report["resumed"] is (free_bytes > 0)
        assert nothing_of_the_work_is_left(small)
        assert small.log_holds()


def test_ctrl_c_in_preparation_records_nothing_and_the_same_command_goes_on(home: CliHome) -> None:
    while_training_the_tokenizer = home.interrupt(
        *PREPARE, when=lambda: len(home.processes()) > 1, slow_s=0.1
    )
    assert while_training_the_tokenizer.code == 3
    (left,) = (home.store / "datasets/text").iterdir()
    while_sealing = home.interrupt(
        *PREPARE, when=lambda: home.shards(f"datasets/text/{left.name}/work/encode"), slow_s=0.1
    )
    assert (while_sealing.code, while_sealing.out) == (3, "")
    assert "error: Cancelled." in while_sealing.err
    assert home.records()["dataset"] == 0
    report = home.data(*PREPARE)
    assert (report["found"], report["resumed"], report["record"]["version"]) == (False, True, left.name)
    assert nothing_of_the_work_is_left(home)
    assert home.data(*PREPARE)["found"] is True
    assert home.log_holds()


def test_a_killed_preparation_is_gone_on_with_or_begun_anew(home: CliHome) -> None:
    for option, resumed in (((), True), (("--fresh",), False)):
        process = home.start(*PREPARE, "seed=7" if resumed else "seed=8", slow_s=0.1)
        wait_until(lambda: list(home.store.glob("datasets/text/*/work/tokenizer/*.stk")), process)
        process.kill()
        process.communicate()
        before = home.records()["dataset"]
        report = home.data(*PREPARE, "seed=7" if resumed else "seed=8", *option)
        assert (report["resumed"], report["unfinished_removed"]) == (resumed, 0 if resumed else 1)
        assert home.records()["dataset"] == before + 1
        versions = list((home.store / "datasets/text").iterdir())
        assert len(versions) == before + 1
        assert not any((version / "work").exists() for version in versions)
        assert home.processes() == {}


def test_a_prepared_dataset_whose_objects_were_removed_is_made_again(home_at: HomeAt) -> None:
    home = home_at("prepared")
    shutil.rmtree(home.store / "datasets")
    assert home.data(*PREPARE)["found"] is False
    assert home.records()["dataset"] == 2
