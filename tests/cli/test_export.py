"""`stoker export` and `stoker run release` through the real command, on a run that really trained."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers

import stoker
from stoker.cli.release import NothingToExport
from stoker.core.canonical import digest_of
from stoker.core.clock import SystemClock
from stoker.core.home import Home
from stoker.core.ids import RunId
from stoker.intake.errors import UnusableTarget
from stoker.intake.tokenizer import WordEncoder
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import AuditEntry
from stoker.train.exchange.configuration import described_by
from stoker.train.exchange.contents import CONFIG
from stoker.train.exchange.folder import WeightFolder
from stoker.train.exchange.read import load_weights
from stoker.train.models.decoder import build_model
from stoker.train.models.initialise import materialise
from support.cli_home import CliHome, ended, wait_until

HomeAt = Callable[[str], CliHome]


@pytest.fixture
def home(home_at: HomeAt) -> CliHome:
    """A home with one run that finished."""
    return home_at("trained")


def run_of(home: CliHome) -> str:
    (run,) = home.runs()
    return run


def left(home: CliHome) -> list[str]:
    """Whatever of an export to `out` lies there."""
    return [path.name for path in home.place.iterdir() if "out" in path.name]


def last_act(home: CliHome, action: str) -> AuditEntry:
    house = Home(home.root)
    with Ledger.open(f"sqlite:///{house.ledger_path}", house.ledger_key_path, SystemClock()) as ledger:
        return ledger.audit.acts([action])[-1]


def weights_of(folder: Path) -> torch.nn.Module:
    """Our own model, filled from the folder."""
    described = described_by(json.loads((folder / CONFIG).read_text()), CONFIG)
    model = materialise(build_model(described.model, described.vocabulary), 1, torch.device("cpu"))
    with WeightFolder.open(folder) as opened:
        load_weights(model, described.model, described.vocabulary, opened)
    return model


def test_export_writes_a_model_that_others_load_and_says_where_it_came_from(home: CliHome) -> None:
    run = run_of(home)
    told = home.data("export", run, "--out", "out", "--dry-run")
    assert (left(home), home.acts()[-1]) == ([], "run.end")
    answer = home.data("export", run, "--out", "out")
    folder = home.place / "out"
    assert (told["form"], told["reviews"], told["dry_run"]) == ("qwen3", answer["reviews"], True)
    assert "plaintext" in answer["warning"]

    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    text = "Letter 7, to somebody\n\tat home"
    tokens = reader(text, return_tensors="pt")["input_ids"]
    own = WordEncoder((folder / "tokenizer.json").read_text(), 2).encode(text)
    assert tokens[0].tolist() == list(memoryview(own).cast("H"))
    assert reader.decode(tokens[0]) == text
    assert reader.eos_token_id == theirs.config.eos_token_id == 0
    with torch.no_grad():
        assert torch.allclose(theirs(tokens).logits, weights_of(folder)(tokens), atol=1e-4)

    files = {path.name: path for path in folder.iterdir()}
    assert set(files) == {each["name"] for each in answer["files"]} | {"export.json"}
    assert folder.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files.values())
    for each in answer["files"]:
        data = files[each["name"]].read_bytes()
        assert (len(data), hashlib.sha256(data).hexdigest()) == (each["bytes"], each["sha256"])
    manifest = json.loads(files["export.json"].read_text())
    assert manifest["digest"] == answer["digest"] == digest_of(manifest["files"])

    (row,) = home.data("dataset", "show", "text")["datasets"]
    card = files["README.md"].read_text()
    (dataset,) = manifest["datasets"]
    for digest in (row["root"], row["source_root"], row["review"], run, manifest["checkpoint_digest"]):
        assert digest in card
    assert (dataset["root"], dataset["version"]) == (row["root"], row["version"])
    assert "research" in card
    assert stoker.__version__ in card
    assert "asker" not in card + json.dumps(manifest), "nobody's name leaves with the model"
    assert "decider" not in card + json.dumps(manifest)

    assert home.acts()[-2:] == ["run.export.begin", "run.export"]
    entry = last_act(home, "run.export")
    assert (entry.actor, entry.subject) == ("asker", f"run/{run}")
    expected = {
        "digest": answer["digest"],
        "checkpoint_digest": answer["checkpoint_digest"],
        "plaintext": True,
    }
    assert {name: entry.detail[name] for name in expected} == expected
    assert entry.detail["datasets"] == [row["root"]]
    home.refused(UnusableTarget, "export", run, "--out", "out")
    assert home.log_holds()


def test_a_run_without_a_checkpoint_has_nothing_to_export(home: CliHome) -> None:
    house = Home(home.root)
    with Ledger.open(f"sqlite:///{house.ledger_path}", house.ledger_key_path, SystemClock()) as ledger:
        record = replace(ledger.catalogue.run(RunId(run_of(home))), id=RunId("r-0123456789abcdef0123"))
        with ledger.act(
            actor="asker", action="run.start", subject=f"run/{record.id}", detail={}
        ) as catalogue:
            catalogue.add_run(record, [])
    home.refused(NothingToExport, "export", record.id, "--out", "out")
    home.refused(NothingToExport, "run", "release", record.id, "--reason", "why", by="decider")


def test_an_export_that_is_told_to_end_leaves_nothing(home: CliHome) -> None:
    run = run_of(home)
    process = home.start("export", run, "--out", "out", slow_s=0.3)
    wait_until(lambda: any(home.place.glob(".out.partial-*/*.safetensors")), process)
    os.killpg(process.pid, signal.SIGTERM)
    done = ended(process)
    assert done.code == 3, done
    assert "Traceback" not in done.err
    assert left(home) == []
    assert "run.export" not in home.acts()
