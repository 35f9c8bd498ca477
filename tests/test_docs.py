"""The documents say what the code does: every command, error, dependency and room has its place in them."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from stoker.cli.main import cli

ROOT = Path(__file__).parent.parent


def command_paths(group: click.Group, prefix: str = "stoker") -> list[str]:
    context = click.Context(group)
    paths: list[str] = []
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            paths += command_paths(command, f"{prefix} {name}")
        else:
            paths.append(f"{prefix} {name}")
    return paths


@pytest.mark.parametrize("path", command_paths(cli))
def test_every_command_is_documented(path: str) -> None:
    assert f"`{path}" in (ROOT / "docs/design/cli.md").read_text()


def test_the_error_table_is_the_codes() -> None:
    spec = importlib.util.spec_from_file_location("error_table", ROOT / "scripts/error_table.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (ROOT / "docs/design/errors.md").read_text() == module.error_table()


def test_every_direct_dependency_has_a_decision() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    decisions = "\n".join(path.read_text() for path in (ROOT / "docs/decisions").glob("*.md"))
    for requirement in [*project["dependencies"], *extras["train"]]:
        name = re.split(r"[<>=\[]", requirement)[0]
        assert re.search(rf"\b{re.escape(name)}\b", decisions), name


def test_every_pinned_dependency_is_one_that_is_needed() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    needed = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    missing = {re.split(r"[<>=\[]", requirement)[0] for requirement in needed} - pinned
    assert not missing


def test_every_room_has_its_page_and_is_on_the_overview() -> None:
    overview = (ROOT / "docs/design/00-overview.md").read_text()
    for room in sorted(
        path.name for path in (ROOT / "src/stoker").iterdir() if (path / "__init__.py").exists()
    ):
        assert (ROOT / f"docs/design/{room}.md").exists(), room
        assert f"({room}.md)" in overview, room


@pytest.mark.parametrize(
    "path", [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md"], ids=lambda path: path.name
)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text()):
        assert (path.parent / target).exists(), f"{path.name}: {target}"


def test_no_module_is_longer_than_the_house_allows() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 600, path


@pytest.mark.parametrize(
    "path",
    [ROOT / "README.md", *sorted(ROOT.glob("examples/*/README.md"))],
    ids=lambda path: path.parent.name,
)
def test_every_command_line_shown_is_one_that_the_command_line_knows(path: Path) -> None:
    lines = [
        line.partition("   #")[0] for line in path.read_text().splitlines() if line.startswith("stoker ")
    ]
    assert lines
    for line in lines:
        words = shlex.split(line)[1:]
        context, command = click.Context(cli), cli
        while isinstance(command, click.Group):
            _, found, words = command.resolve_command(context, words)
            assert found is not None, line
            context, command = click.Context(found, info_name=found.name), found
        command.make_context(command.name, [*words], resilient_parsing=False)
