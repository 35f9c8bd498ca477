"""The main job on a folder of one's own, through the real command line, with a rank killed in the middle.

Shown here on one home: the kill is survived and nothing is lost; the losses are those of an undisturbed run;
no plaintext and no data key is in any file; the promises hold; a destroyed dataset is gone.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stoker.core.clock import SystemClock
from stoker.core.events import read_events
from stoker.fleet.curves import points
from stoker.keys.open import open_backend
from stoker.keys.partition import BackendKeySource
from stoker.promises.search import forms_of, search
from stoker.store.header import MAX_HEADER_BYTES, parse_header

RUN_FILE = """
dataset = "own-text"
name = "small"
purpose = "research"
[model]
layers = 2
width = 64
heads = 2
kv_heads = 1
ffn_width = 128
[train]
steps = 12
global_batch = 4
warmup_steps = 2
checkpoint_every_steps = 4
[evaluate]
sample_tokens = 16
"""


@dataclass
class Owner:
    """Someone with a home, a folder of text, and the command line."""

    place: Path
    marker: str = field(default_factory=lambda: f"zebra{secrets.token_hex(12)}")
    address: str = field(default_factory=lambda: f"{secrets.token_hex(8)}@mail.example.org")

    @property
    def home(self) -> Path:
        return self.place / "home"

    @property
    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.place),
            "STOKER_HOME": str(self.home),
            "TMPDIR": str(self.place / "tmp"),
        }

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "stoker.cli", *arguments, "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment,
            cwd=self.place,
        )

    def result(self, process: subprocess.Popen[str], exit_code: int) -> Any:
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == exit_code, f"{process.args}\n{stdout}\n{stderr}"
        body = json.loads(stdout)
        return body["data"] if body["ok"] else body["error"]

    def run(self, *arguments: str, exit_code: int = 0) -> Any:
        return self.result(self.start(*arguments), exit_code)

    def events(self, run: str) -> list[dict[str, Any]]:
        path = self.home / "runs" / run / "events.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def write_texts(self) -> None:
        """Invented prose with invented addresses, and in some files a word that exists nowhere else."""
        (self.place / "tmp").mkdir()
        folder = self.place / "texts"
        folder.mkdir()
        words = random.Random(1)
        vocabulary = [
            f"{a}{b}" for a in ("sto", "ker", "fur", "coal", "ash") for b in ("ta", "re", "mi", "lo", "n")
        ]
        for number in range(60):
            lines = [" ".join(words.choices(vocabulary, k=11)) for _ in range(60)]
            lines[7] = f"write to {self.address} about {self.marker}"
            (folder / f"letter-{number:02}.txt").write_text("\n".join(lines) + "\n")


def kill_rank(owner: Owner, process: subprocess.Popen[str], *, rank: int, after_step: int) -> str:
    """SIGKILL `rank` of the newest run once `after_step` is done; returns the run's id."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        for run in sorted((owner.home / "runs").glob("r-*"))[-1:]:
            events = owner.events(run.name)
            done = [each["step"] for each in events if each["kind"] == "step"]
            pids = [each["pid"] for each in events if each["kind"] == "rank_started" and each["rank"] == rank]
            if pids and done and max(done) >= after_step:
                os.kill(pids[-1], signal.SIGKILL)
                return run.name
        time.sleep(0.02)
    raise AssertionError("the run did not get that far")


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owner]:
    owner = Owner(tmp_path_factory.mktemp("owner"))
    owner.write_texts()
    (owner.place / "run.toml").write_text(RUN_FILE)
    owner.run("identity", "create", "alice", "--role", "researcher")
    owner.run("identity", "create", "bob", "--role", "reviewer")
    owner.run("import", "letters", "texts", "--as", "alice")
    owner.run("review", "scan", "letters", "--as", "alice")
    asked = owner.run("review", "request", "letters", "--purpose", "research", "--as", "alice")
    approve = (
        "review",
        "approve",
        asked["reviews"][0]["id"],
        "--digest",
        asked["reviews"][0]["request_digest"],
    )
    assert owner.run(*approve, "--as", "alice", exit_code=86)["id"] == "self-review"
    owner.run(*approve, "--as", "bob")
    small = ["vocabulary=300", "sequence_tokens=32", "chunk_log2=14", "heldout_fraction=0.1"]
    owner.run("prepare", "own-text", "--source", "letters", "--purpose", "research", "--as", "alice", *small)
    yield owner
    for run in (owner.home / "runs").glob("r-*"):
        for event in owner.events(run.name):
            assert event["kind"] != "rank_started" or not Path(f"/proc/{event['pid']}").exists()


@pytest.fixture(scope="module")
def killed(owner: Owner) -> dict[str, Any]:
    """A run whose rank 1 was killed after step 6; its last checkpoint then was of step 4."""
    process = owner.start("train", "run.toml", "--as", "alice")
    run = kill_rank(owner, process, rank=1, after_step=6)
    summary = owner.result(process, 0)
    assert summary["run"] == run
    return dict(summary)


@pytest.fixture(scope="module")
def undisturbed(owner: Owner) -> dict[str, Any]:
    return dict(owner.run("train", "run.toml", "--as", "alice"))


def losses(owner: Owner, summary: dict[str, Any]) -> dict[int, list[float]]:
    found: dict[int, list[float]] = {}
    for event in owner.events(summary["run"]):
        if event["kind"] == "step":
            found.setdefault(event["step"], []).append(event["loss"])
    return found


def test_the_run_survives_the_kill_and_says_so(owner: Owner, killed: dict[str, Any]) -> None:
    assert (killed["outcome"], killed["last_step"], killed["last_checkpoint_step"]) == ("finished", 12, 12)
    (recovery,) = killed["recoveries"]
    assert recovery["rank"] == 1
    assert recovery["resume_step"] == 4
    assert recovery["next_step_s"] > recovery["detected_s"] >= recovery["failed_s"]
    assert sum(killed["goodput"]["seconds"].values()) == pytest.approx(killed["goodput"]["wall_s"], abs=1e-3)
    assert {each["name"] for each in killed["evaluations"]} == {"model", "bigram", "zlib-9", "xz"}


def test_losses_after_the_kill_are_those_of_the_undisturbed_run(
    owner: Owner, killed: dict[str, Any], undisturbed: dict[str, Any]
) -> None:
    reference, resumed = losses(owner, undisturbed), losses(owner, killed)
    assert sorted(reference) == sorted(resumed) == list(range(1, 13))
    assert any(len(values) == 2 for values in resumed.values())
    for step, values in resumed.items():
        assert set(values) == set(reference[step]), f"step {step}"


def test_no_plaintext_and_no_data_key_is_in_any_file(
    owner: Owner, killed: dict[str, Any], undisturbed: dict[str, Any]
) -> None:
    needles = {
        "the marker": forms_of(owner.marker.encode()),
        "the address": forms_of(owner.address.encode()),
    }
    backend = open_backend((owner.home / "keys").as_uri(), clock=SystemClock(), passphrase=None)
    keys = BackendKeySource(backend)
    wrapped = {}
    for path in (owner.home / "store").rglob("*.stk"):
        header = parse_header(path.read_bytes()[:MAX_HEADER_BYTES], path.stat().st_size, str(path))
        wrapped[header.wrapped_key] = header
    for number, header in enumerate(wrapped.values()):
        with keys.open_partition_key(header.kek, header.wrapped_key, header.purpose) as key:
            needles[f"data key {number} of {header.kek}"] = forms_of(bytes(key.view()))
    assert len(wrapped) >= 4
    shared = [Path("/dev/shm"), Path(tempfile.gettempdir()), owner.place / "tmp"]
    imported_s = (owner.home / "ledger.db").stat().st_ctime - 300
    inside = search([owner.home], needles)
    outside = search([path for path in shared if path != owner.place], needles, newer_s=imported_s)
    assert inside.files > 40
    assert inside.hits == ()
    assert [hit for hit in outside.hits if owner.place / "texts" not in hit.path.parents] == []


def test_the_page_and_the_json_show_the_same_figures(owner: Owner, killed: dict[str, Any]) -> None:
    page = Path(owner.run("run", "report", killed["run"])["path"]).read_text()
    shown = owner.run("run", "show", killed["run"])
    assert f"{shown['goodput']['ettr']:.3f}" in page
    model = next(each for each in shown["evaluations"] if each["name"] == "model")
    assert f"{model['bits_per_byte']:.3f}" in page
    assert 'class="mark kill"' in page
    assert 'class="mark recovery"' in page
    assert "http://" not in page
    assert "https://" not in page


def test_other_tools_see_the_same_figures(owner: Owner, killed: dict[str, Any]) -> None:
    shown = owner.run("run", "show", killed["run"])
    text = owner.run("run", "metrics", killed["run"])["text"]
    model = next(each for each in shown["evaluations"] if each["name"] == "model")
    assert f'name="model"}} {model["bits_per_byte"]:.10g}' in text
    assert "stoker_speed_mfu{" in text
    curves = EventAccumulator(str(owner.home / "runs" / killed["run"] / "curves"))
    curves.Reload()
    drawn = [(each.step, pytest.approx(each.value, rel=1e-6)) for each in curves.Scalars("train/loss")]
    assert drawn == [(each["step"], each["loss"]) for each in shown["steps"]]
    offline = owner.home / "offline"
    told = owner.run("run", "metrics", killed["run"], "--format", "wandb", "--out", str(offline))
    assert told["text"] == f"{len(list(_figures(owner, killed)))} figures in {offline}"
    assert len(list(offline.glob(f"offline-run-*/run-{killed['run']}.wandb"))) == 1


def _figures(owner: Owner, killed: dict[str, Any]) -> Iterator[tuple[str, float]]:
    for event in read_events(owner.home / "runs" / killed["run"] / "events.jsonl").events:
        yield from points(event)


def test_every_promise_is_kept_and_the_check_says_how(owner: Owner, killed: dict[str, Any]) -> None:
    report = owner.run("verify")
    assert {each["number"]: each["standing"] for each in report["promises"]} == dict.fromkeys(
        range(1, 9), "kept"
    )
    assert all(each["checks"] for each in report["promises"])


def test_a_destroyed_dataset_cannot_be_trained_on_again(
    owner: Owner, killed: dict[str, Any], undisturbed: dict[str, Any]
) -> None:
    kek = owner.run("dataset", "show", "own-text")["datasets"][0]["kek"]
    owner.run("key", "destroy", kek, "--as", "alice")
    emergency = ("--emergency", "--reason", "this test")
    assert (
        owner.run("key", "destroy", kek, *emergency, "--as", "alice", exit_code=37)["id"]
        == "dual-control-refused"
    )
    owner.run("key", "destroy", kek, *emergency, "--as", "bob")
    refused = owner.start("train", "run.toml", "--as", "alice")
    stdout, _ = refused.communicate(timeout=120)
    assert refused.returncode >= 10
    assert json.loads(stdout)["error"]["id"] == "dataset-gone"
    third = next(each for each in owner.run("verify")["promises"] if each["number"] == 3)
    assert third["standing"] == "kept"
    assert sum("whose key is gone" in each["tried"] for each in third["checks"]) == 2
