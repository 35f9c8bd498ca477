"""Two machines that share ledger, keys and store: a death is proved when it was tried on both."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from support.cli_home import CliHome
from support.warm_cli import WarmHome, warm_commands

OPEN = """
import sys
from pathlib import Path
from stoker.fleet.elsewhere import open_dataset
with open_dataset("text", purpose="research", actor="asker", home=Path(sys.argv[1])) as dataset:
    print(len(next(iter(dataset.token_split("train").sequential()))))
"""


def second_machine(first: CliHome, place: Path) -> CliHome:
    """A home of its own, with a cache of its own, on the first one's ledger, keys and store."""
    home = CliHome(place)
    home.root.mkdir(0o700, parents=True)
    for name in ("ledger.key", "ledger.head"):
        shutil.copy2(first.root / name, home.root / name)
    settings = {
        "ledger": f"sqlite:///{first.root / 'ledger.db'}",
        "keys": (first.root / "keys").as_uri(),
        "store": first.store.as_uri(),
    }
    text = "".join(f"[{name}]\nurl = {json.dumps(url)}\n" for name, url in settings.items())
    (home.root / "stoker.toml").write_text(text)
    return home


def test_a_death_counts_as_proved_once_each_node_has_tried_it(
    home_at: Callable[[str], CliHome], tmp_path: Path
) -> None:
    prepared = home_at("prepared")
    with warm_commands() as commands:
        here = WarmHome(prepared.place, prepared.environment, commands=commands)
        there = WarmHome(second_machine(here, tmp_path / "second").place, commands=commands)
        here.stoker("identity", "create", "hands", "--role", "operator", by="")
        read = subprocess.run(  # in a process of its own, since opening hardens it
            [sys.executable, "-c", OPEN, str(there.root)],
            env={"PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert read.returncode == 0, read.stderr
        kept = list((there.root / "cache/objects").rglob("*.stk"))
        node = (there.root / "node").read_text().strip()
        kek = next(k["kek"] for k in here.data("key", "ls")["keys"] if k["kek"].startswith("dataset/"))

        here.stoker("key", "destroy", kek)
        here.stoker("key", "destroy", kek, "--emergency", "--reason", "a lost laptop", by="decider")
        told = here.stoker("key", "prove", kek, by="hands", code=1).out
        assert f"node cache {node}" in told
        assert f"not reached from here; run there: stoker key prove {kek}" in told
        assert node in here.stoker("key", "sweep", by="hands", code=1).out
        assert node in here.stoker("verify", code=1).out

        there.stoker("key", "prove", kek, by="hands")
        (trial,) = [
            each
            for each in here.data("key", "prove", kek, by="hands")["trials"]
            if each["replica"] == f"node cache {node}"
        ]
        assert (trial["outcome"], trial["tried"]) == ("refused", len(kept)) != ("refused", 0)
        assert trial["tried_s"] is not None, "tried there, and only told here"
        here.stoker("verify")
        there.stoker("verify")
