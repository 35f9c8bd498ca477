"""A key store that an older Stoker wrote opens, is brought up to date, and loses nothing.

`vectors/keystore-v1` was written by the code before version 2; `facts.json` says what was in it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, Final

import pytest

from stoker.core.clock import ManualClock
from stoker.keys.backend import KeyBackend
from stoker.keys.errors import KeyDestroyed, KeyNotActive, KeystoreDamaged
from stoker.keys.keystore_v1 import from_version_1
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.secret import SecretKey
from stoker.keys.states import DEFAULT_ORIGINATOR_S, MIN_WINDOW_S, KekState
from support.key_stores import open_store
from support.keystore_reader import canonical, live_secrets, read_root_key

OLD: Final = Path(__file__).parent / "vectors" / "keystore-v1"
FACTS: Final[dict[str, Any]] = json.loads((OLD / "facts.json").read_text())
CONTEXT: Final = bytes.fromhex(FACTS["context"])
EPOCHS: Final = [KekRef("dataset/old", epoch) for epoch in range(1, 6)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "keys"
    made.mkdir(mode=0o700)
    for name in ("keystore.json", "tombstones.json", "root.key"):
        shutil.copyfile(OLD / name, made / name)
        (made / name).chmod(0o600)
    return made


def written(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "keystore.json").read_bytes())
    return found


def opened_digest(backend: KeyBackend, ref: KekRef) -> str:
    kept = FACTS["keys"][str(ref)]
    with backend.unwrap(ref, bytes.fromhex(kept["wrapped"]), CONTEXT) as key:
        return hashlib.sha256(key.view()).hexdigest()


def test_everything_that_lived_still_opens_and_the_file_is_of_the_new_version(folder: Path) -> None:
    assert written(folder)["version"] == 1
    clock = ManualClock()
    for _ in range(2):
        with open_store(folder, clock=clock) as backend:
            for ref in (EPOCHS[0], EPOCHS[1], EPOCHS[2], EPOCHS[4]):
                assert opened_digest(backend, ref) == FACTS["keys"][str(ref)]["sha256"]
            with pytest.raises(KeyDestroyed):
                opened_digest(backend, EPOCHS[3])
            assert backend.signer("manifest").public_key.hex() == FACTS["signer"]
            assert backend.canary("source/x") == FACTS["canary"]
        assert written(folder)["version"] == 2
    assert len(live_secrets(folder, read_root_key(folder))) == 1 + 6 + 4 + 1


def test_states_times_and_requests_are_kept(folder: Path) -> None:
    with open_store(folder) as backend:
        infos = {info.ref: info for info in backend.list_keks()}
        states = [infos[ref].state for ref in EPOCHS]
        assert states == [
            KekState.ACTIVE,
            KekState.DEACTIVATED,
            KekState.ACTIVE,
            KekState.DESTROYED,
            KekState.ACTIVE,
        ]
        purposes = [Purpose.SOURCE, Purpose.DATASET, Purpose.CHECKPOINT, Purpose.SOURCE, Purpose.DATASET]
        assert [infos[ref].purpose for ref in EPOCHS] == purposes
        first = infos[EPOCHS[0]]
        assert first.expires_s == FACTS["now_s"] + 1e6
        assert first.wraps_until_s == first.created_s + DEFAULT_ORIGINATOR_S
        asked = infos[EPOCHS[2]]
        assert (asked.destroy_requested_by, asked.destroy_window_s) == ("alice", MIN_WINDOW_S)
        gone = infos[EPOCHS[3]]
        assert (gone.destroy_requested_by, gone.destroy_approved_by) == ("alice", "bob")
        assert gone.destroyed_s == FACTS["now_s"]
        assert backend.approve_destroy(EPOCHS[2], "bob").state is KekState.PENDING_DESTROY
        assert backend.create_kek("dataset/gone", Purpose.DATASET, expires_s=None).epoch == 8
        assert backend.rotate("dataset/old", expires_s=None).epoch == 6
        with SecretKey.generate() as key, pytest.raises(KeyNotActive):
            backend.wrap(EPOCHS[0], key, CONTEXT)


def test_a_changed_old_store_is_refused_and_stays_as_it_is(folder: Path) -> None:
    store = written(folder)
    store["entries"]["kek/dataset/old#2"]["state"] = "active"
    changed = canonical(store) + b"\n"
    (folder / "keystore.json").write_bytes(changed)
    with pytest.raises(KeystoreDamaged, match="dataset/old#2"):
        open_store(folder)
    assert (folder / "keystore.json").read_bytes() == changed


def test_a_handle_cannot_say_another_purpose_than_the_one_it_was_made_with(folder: Path) -> None:
    entry = written(folder)["entries"]["kek/dataset/old#1"]
    assert from_version_1(entry)["handle"] == f"v1:source:{entry['wrapped']}"
    with pytest.raises(ValueError, match="other members"):
        from_version_1({**entry, "note": 1})
