"""What bad input gets on the way in: folders, files and links to import, full disks, Ctrl-C, passphrases."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stoker.core.errors import BadHome, BadName, ConfigError, DiskFull
from stoker.intake.errors import EmptySource, LinkLeavesSource, UnreadableFile, UnusableFolder
from stoker.keys.errors import LooseKeyFile, PassphraseNeeded, WrongPassphrase
from stoker.ledger.errors import UnknownIdentity
from support.cli_home import CliHome, almost_full, small_disk, wait_until, write_texts

HomeAt = Callable[[str], CliHome]


@pytest.fixture
def home(home_at: HomeAt) -> CliHome:
    return home_at("people")


def test_an_empty_source_is_refused_and_leaves_nothing(home: CliHome) -> None:
    (home.place / "empty/inside").mkdir(parents=True)
    before = home.contents()
    said = home.refused(EmptySource, "import", "notes", "empty")
    assert "Nothing in empty was taken: it holds no file." in said
    assert "include and exclude" in said
    assert home.contents() == before
    assert home.refused_json(EmptySource, "import", "notes", "empty")["message"] in said


def test_a_source_of_which_nothing_can_be_taken_says_what_was_left_out(home: CliHome) -> None:
    folder = home.place / "pictures"
    folder.mkdir()
    (folder / "one.png").write_bytes(b"\x89PNG\xff")
    (folder / "none.txt").touch()
    before = home.contents()
    said = home.refused(EmptySource, "import", "notes", "pictures")
    assert "Nothing in pictures was taken: 1 empty, 1 not_utf8." in said
    assert home.contents() == before


@pytest.mark.parametrize(
    ("folder", "why"), [("nowhere", "No such file or directory"), ("run.toml", "Not a directory")]
)
def test_a_folder_that_is_none_is_refused_and_named(home: CliHome, folder: str, why: str) -> None:
    before = home.contents()
    said = home.refused(UnusableFolder, "import", "notes", folder)
    assert f"{folder} cannot be imported: {why}." in said
    assert home.contents() == before


def test_an_unreadable_file_stops_the_import_and_is_named(home: CliHome) -> None:
    (home.texts / "letter-030.txt").chmod(0)
    before = home.contents()
    said = home.refused(UnreadableFile, "import", "notes", "texts", powerless=True)
    assert "letter-030.txt cannot be read: Permission denied." in said
    assert 'unreadable = "leave_out"' in said
    assert home.contents() == before


def test_what_is_no_utf8_or_unreadable_is_counted_and_named_when_the_settings_leave_it_out(
    home: CliHome,
) -> None:
    (home.texts / "letter-030.txt").chmod(0)
    (home.texts / "latin").mkdir()
    (home.texts / "latin/café.txt").write_bytes("un café".encode("latin-1"))
    (home.place / "import.toml").write_text('unreadable = "leave_out"\n')
    arguments = ("import", "notes", "texts", "--settings", "import.toml")
    done = home.stoker(*arguments, powerless=True)
    assert "not utf8" in done.out
    assert "latin/café.txt" in done.out
    assert "letter-030.txt" in done.out
    left_out = {"not_utf8": 1, "unreadable": 1}
    (kept,) = home.data("source", "show", "notes")["sources"]
    assert (kept["files"], kept["left_out"]) == (59, left_out)
    said = home.refused(UnreadableFile, *arguments, 'not_text="refuse"', powerless=True)
    assert "latin/café.txt is not UTF-8: byte 6 does not belong there." in said
    assert 'not_text = "leave_out"' in said


def test_a_link_that_leaves_the_source_is_refused_and_named(home: CliHome) -> None:
    (home.texts / "inside").symlink_to("letter-000.txt")
    (home.texts / "deep").mkdir()
    (home.texts / "deep/outside").symlink_to("../../home/ledger.key")
    before = home.contents()
    said = home.refused(LinkLeavesSource, "import", "notes", "texts")
    assert "deep/outside is a symbolic link to something outside the source." in said
    assert 'outside_links = "leave_out"' in said
    assert home.contents() == before
    report = home.data("import", "notes", "texts", 'outside_links="leave_out"')
    assert report["record"]["left_out"] == {"link": 1, "outside_link": 1}
    assert ["deep/outside"] in [each["examples"] for each in report["left_out"]]


@pytest.mark.parametrize("name", ["../notes", "/tmp/notes"])
def test_a_source_name_that_is_a_path_is_refused(home: CliHome, name: str) -> None:
    before = home.contents()
    said = home.refused(BadName, "import", "--", name, "texts")
    assert f"{name!r} is no source name." in said
    assert "it is not a path" in said
    assert home.contents() == before


def test_every_mistake_of_import_settings_is_named_at_once(home: CliHome) -> None:
    (home.place / "import.toml").write_text('includ = ["*.md"]\nnot_text = "refus"\nmax_file_bytes = 0\n')
    said = home.refused(ConfigError, "import", "notes", "texts", "--settings", "import.toml")
    assert "3 mistakes" in said
    assert "import.toml: includ: unknown key; did you mean 'include'?" in said
    assert (
        "import.toml: not_text: expected one of leave_out, refuse; found 'refus'; did you mean 'refuse'?"
        in said
    )
    assert "max_file_bytes is 0" in said


def test_an_import_in_the_name_of_nobody_known_is_refused(home: CliHome) -> None:
    before = home.contents()
    said = home.refused(UnknownIdentity, "import", "notes", "texts", by="askr")
    assert "There is no identity 'askr'." in said
    assert "'asker'" in said
    assert home.contents() == before


@pytest.mark.parametrize("free_bytes", [70_000, 250_000, 350_000])
def test_a_disk_that_is_full_during_an_import_leaves_nothing_and_the_same_import_works_later(
    home: CliHome, tmp_path: Path, free_bytes: int
) -> None:
    with small_disk(tmp_path / "disk", home) as small:
        before = small.contents()
        with almost_full(tmp_path / "disk", free_bytes):
            said = small.refused(DiskFull, "import", "notes", "texts")
            assert f"No space is left on the file system that holds {small.root}" in said
            assert "Free some space" in said
        assert small.contents() == before
        report = small.data("import", "notes", "texts")
        assert (report["record"]["files"], report["unfinished_removed"]) == (60, 0)
        assert small.log_holds()


def test_ctrl_c_during_an_import_leaves_nothing_and_the_same_import_works_later(home: CliHome) -> None:
    before = home.contents()
    done = home.interrupt("import", "notes", "texts", when=lambda: home.shards("sources/notes"), slow_s=0.1)
    assert (done.code, done.out) == (3, "")
    assert (
        done.err.strip() == "error: Cancelled.\nhint: Run the same command again; it cleans up or continues."
    )
    assert home.contents() == before
    assert home.data("import", "notes", "texts")["record"]["files"] == 60
    assert home.log_holds()


def test_an_import_that_was_killed_is_cleaned_up_by_the_next(home: CliHome) -> None:
    before = home.contents()
    process = home.start("import", "notes", "texts", slow_s=0.1)
    wait_until(lambda: home.shards("sources/notes"), process)
    process.kill()
    process.communicate()
    (left,) = (home.store / "sources/notes").iterdir()
    report = home.data("import", "notes", "texts")
    assert report["unfinished_removed"] == 1
    assert not left.exists()
    assert len(home.active_keys() - before.active_keys) == 1
    assert home.records()["source"] == 1


def test_ctrl_c_during_a_scan_ends_its_workers_and_keeps_no_report(home_at: HomeAt) -> None:
    home = home_at("source")
    before = home.contents()
    done = home.interrupt("review", "scan", "notes", when=lambda: len(home.processes()) > 1, slow_s=0.3)
    assert done.code == 3
    assert home.contents() == before
    assert home.data("review", "scan", "notes")["counts"]["email"] == 60
    assert home.acts().count("source.scan") == 1


def test_ctrl_c_while_a_scan_report_is_stored_is_as_if_it_never_was(home_at: HomeAt) -> None:
    home = home_at("source")
    before = home.contents()
    done = home.interrupt(
        "review", "scan", "notes", when=lambda: list(home.store.rglob("scan/*.stk")), slow_s=0.15
    )
    assert done.code == 3
    assert home.contents() == before
    assert home.acts().count("source.scan") == 0


def test_a_wrong_passphrase_opens_nothing_and_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    write_texts(place / "texts", files=3)
    for name, phrase in (
        ("right", "quite a long phrase of words"),
        ("wrong", "quite another phrase of words"),
    ):
        (place / name).write_text(f"{phrase}\n")
        (place / name).chmod(0o600)
    home = CliHome(place, {"STOKER_PASSPHRASE_FILE": str(place / "right")})
    home.stoker("identity", "create", "asker", "--role", "researcher", by="")
    before = home.contents()
    intruder = CliHome(place, {"STOKER_PASSPHRASE_FILE": str(place / "wrong")})
    said = intruder.refused(WrongPassphrase, "import", "notes", "texts")
    assert f"The passphrase does not open the key store {home.root}/keys/keystore.json." in said
    said = CliHome(place).refused(PassphraseNeeded, "import", "notes", "texts")
    assert "STOKER_PASSPHRASE_FILE" in said
    (place / "wrong").chmod(0o644)
    said = intruder.refused(LooseKeyFile, "import", "notes", "texts")
    assert f"chmod 600 {place}/wrong" in said
    absent = CliHome(place, {"STOKER_PASSPHRASE_FILE": str(place / "absent")})
    said = absent.refused(PassphraseNeeded, "import", "notes", "texts")
    assert f"{place}/absent cannot be read: No such file or directory." in said
    assert "STOKER_PASSPHRASE_FILE" in said
    assert home.contents() == before
    assert home.data("import", "notes", "texts")["record"]["files"] == 3
    assert "long phrase" not in json.dumps(
        [path.read_text(errors="replace") for path in home.root.rglob("*.*")]
    )


def test_a_home_that_is_no_folder_or_open_to_others_is_refused(home: CliHome) -> None:
    home.root.chmod(0o755)
    said = home.refused(BadHome, "import", "notes", "texts")
    assert f"chmod 700 {home.root}" in said
    shutil.rmtree(home.root)
    home.root.touch()
    said = home.refused(BadHome, "import", "notes", "texts")
    assert f"{home.root} cannot be used as STOKER_HOME" in said
