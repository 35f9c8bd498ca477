"""What is installed is what was looked at: each file by its hash, from whatever index it comes."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCK = (ROOT / "requirements.lock").read_text()
NAME = "click"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> dict[str, str]:
    """Each package of the lock with its version."""
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", LOCK, re.MULTILINE)}


def entry(name: str) -> str:
    """The lines of one package in the lock, hashes and all."""
    return re.search(rf"^{name}==(?:.*\\\n)*.*\n", LOCK, re.MULTILINE).group(0)  # type: ignore[union-attr]


def wheel(folder: Path, name: str, version: str) -> None:
    """An installable package of that name and version, which is somebody else's."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "somebody_elses = True\n")
        file.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")


def install(index: Path, target: Path, *wanted: str) -> subprocess.CompletedProcess[str]:
    """As scripts/setup.sh does it, from a folder that plays the index."""
    return subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "pip",
                "--isolated",
                "--disable-pip-version-check",
                "install",
                "--no-deps",
            ),
            *("--no-index", "--find-links", str(index), "--target", str(target), *wanted),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture
def index(tmp_path: Path) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    return folder


def test_atk_079_a_package_of_the_right_name_and_version_from_elsewhere_is_refused(
    index: Path, tmp_path: Path
) -> None:
    wheel(index, NAME, locked()[NAME])
    wheel(index, NAME, "999.9.9")
    lock = tmp_path / "lock"
    lock.write_text(entry(NAME))
    done = install(index, tmp_path / "taken", "--require-hashes", "--requirement", str(lock))
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr
    assert not list((tmp_path / "taken").glob("*"))


def test_atk_079_without_the_lock_the_higher_version_of_somebody_else_would_win(
    index: Path, tmp_path: Path
) -> None:
    wheel(index, NAME, locked()[NAME])
    wheel(index, NAME, "999.9.9")
    done = install(index, tmp_path / "taken", NAME)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "taken" / f"{NAME}-999.9.9.dist-info").is_dir()


def test_atk_079_a_package_without_a_hash_is_refused(index: Path, tmp_path: Path) -> None:
    wheel(index, NAME, locked()[NAME])
    lock = tmp_path / "lock"
    lock.write_text(f"{NAME}=={locked()[NAME]}\n")
    done = install(index, tmp_path / "taken", "--require-hashes", "--requirement", str(lock))
    assert done.returncode != 0
    assert not list((tmp_path / "taken").glob("*"))


def test_every_package_is_locked_with_hashes_and_at_the_constraints_version() -> None:
    constraints = {
        normal(name): version
        for name, version in re.findall(
            r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE
        )
    }
    assert constraints.pop("torch") == "2.13.0"
    assert locked() == constraints
    for name in locked():
        spelt = next(each for each in re.findall(r"^([\w.-]+)==", LOCK, re.MULTILINE) if normal(each) == name)
        assert "--hash=sha256:" in entry(re.escape(spelt)), name


def test_what_the_project_asks_for_is_in_the_lock() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"].values()
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    wanted += [each for extra in extras for each in extra]
    names = {normal(re.match(r"[\w.-]+", each).group(0)) for each in wanted}  # type: ignore[union-attr]
    assert names - {"torch"} <= set(locked())


def test_setting_up_takes_nothing_without_a_hash_but_torch_and_names_no_index() -> None:
    script = (ROOT / "scripts" / "setup.sh").read_text()
    installs = re.findall(r"^\s*pip install (.*)$", script, re.MULTILINE)
    assert [each for each in installs if "--require-hashes" not in each and "--no-deps" not in each] == [
        '--constraint constraints.txt --only-binary :all: "$want"'
    ]
    for path in (*ROOT.glob("scripts/*.sh"), ROOT / "Makefile", ROOT / "pyproject.toml"):
        assert "index-url" not in path.read_text(), path
