"""The whole way with the pairs: import, review, prepare, three runs, and their figures side by side.

    python examples/pairs/whole.py FOLDER [train.steps=100 ...]

FOLDER is what make.py wrote; words such as train.steps=100 go to each of the three runs: both halves, the
text alone, the picture alone; those of an encoder that a run has not do not. Everything happens in
STOKER_HOME by the commands that the README shows, under two identities; a team would use two people.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

HERE: Final = Path(__file__).parent
RUNS: Final = {"both": "run.toml", "text": "text-only.toml", "image": "image-only.toml"}
NOT_SEEN: Final = {"text": "moderation.image.", "image": "moderation.text."}
FIGURES: Final = ("precision", "recall", "f1", "auroc", "calibration_error", "threshold")
GROUPS: Final = ("short", "long")
LABELS: Final = ("spam", "lure", "mismatch")


def stoker(*words: str) -> Any:
    """What a command says, as data. Ends the program where the command fails."""
    command = [sys.executable, "-m", "stoker.cli", *words, "--json"]
    done = subprocess.run(command, cwd=HERE, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"stoker {' '.join(words)}: {done.stdout}")
    return json.loads(done.stdout)["data"]


def prepared(folder: Path) -> Any:
    """The dataset of the pairs, asked for by one identity and approved by another."""
    known = {each["name"] for each in stoker("identity", "ls")["identities"]}
    for name, role in (("ada", "researcher"), ("ben", "reviewer")):
        if name not in known:
            stoker("identity", "create", name, "--role", role)
    asker, purpose = ("--as", "ada"), ("--purpose", "research", "--recipe", "recipe.toml")
    stoker("import", "pairs", str(folder.absolute()), "--settings", "import.toml", *asker)
    stoker("review", "scan", "pairs", *asker)
    (review,) = stoker("review", "request", "pairs", *purpose, "--days", "30", *asker)["reviews"]
    decision = ("--digest", review["request_digest"], "--reason", "read the report")
    stoker("review", "approve", review["id"], *decision, "--as", "ben")
    return stoker("prepare", "pairs", "--source", "pairs", *purpose, *asker)["record"]


def trained(sees: str, words: list[str]) -> dict[str, float]:
    """A run's figures on held-out pairs, by name."""
    missing = NOT_SEEN.get(sees)
    overrides = [word for word in words if missing is None or not word.startswith(missing)]
    summary = stoker("train", RUNS[sees], *overrides, "--as", "ada")
    if summary["outcome"] != "finished":
        raise SystemExit(f"{RUNS[sees]}: run {summary['run']} ended as {summary['outcome']}")
    return {each["name"]: each["value"] for each in summary["measured"]}


def table(found: dict[str, dict[str, float]]) -> list[str]:
    """A line for each label and run, and below for each group of the run that sees both halves."""
    lines = [f"{'label':9} {'group':6} {'sees':6}" + "".join(f"{name:>18}" for name in FIGURES)]
    for label in LABELS:
        lines += [_line(label, "all", sees, figures) for sees, figures in found.items()]
    for label in LABELS:
        lines += [_line(label, group, "both", found["both"]) for group in GROUPS]
    return lines


def _line(label: str, group: str, sees: str, figures: dict[str, float]) -> str:
    prefix = label if group == "all" else f"{group}.{label}"
    values = (figures.get(f"{prefix}.{name}") for name in FIGURES)
    shown = "".join(f"{'-' if value is None else format(value, '.3f'):>18}" for value in values)
    return f"{label:9} {group:6} {sees:6}{shown}"


def main() -> int:
    """Prepare, train three times, print the table."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    record = prepared(Path(sys.argv[1]))
    figures = record["figures"]
    print(f"trained on {figures['train']['records']:,} pairs; {figures['heldout']['records']:,} held out")
    print(", ".join(f"{kind} {count:,}" for kind, count in figures["redactions"].items() if count))
    print("\n".join(table({sees: trained(sees, sys.argv[2:]) for sees in RUNS})))
    return 0


if __name__ == "__main__":
    sys.exit(main())
