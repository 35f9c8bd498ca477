"""No live secret lies in the clear in any file, and a destroyed one lies nowhere at all."""

from __future__ import annotations

import base64
import threading
from pathlib import Path

import pytest

from stoker.core.clock import ManualClock
from stoker.keys.agent import KeyAgent
from stoker.keys.agent_client import AgentKeySource
from stoker.keys.caller import Caller, key_sockets
from stoker.keys.lease import Lease
from stoker.keys.refs import Purpose
from support.key_stores import PASSPHRASE, SCOPE, open_store
from support.keystore_reader import live_secrets, passphrase_root, read_root_key


def forms(secret: bytes) -> list[bytes]:
    """The ways a secret could stand in a file: raw, backwards, hexadecimal, base64 at each alignment."""
    found = [
        secret,
        secret[::-1],
        secret.hex().encode(),
        secret.hex().upper().encode(),
        repr(secret).encode(),
    ]
    for shift in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.append(encode(bytes(shift) + secret)[4 if shift else 0 : -4])
    return found


def files(place: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}


def where(secret: bytes, place: Path) -> set[str]:
    return {path.name for path, content in files(place).items() for form in forms(secret) if form in content}


@pytest.mark.parametrize("passphrase", [None, PASSPHRASE])
def test_no_secret_lies_in_any_file(tmp_path: Path, passphrase: str | None) -> None:
    folder = tmp_path / "keys"
    clock = ManualClock()
    backend = open_store(folder, clock=clock, passphrase=passphrase)
    keks = [backend.create_kek(SCOPE, Purpose.DATASET, expires_s=None) for _ in range(5)]
    for name in ("manifest", "identity/alice", "identity/bob"):
        backend.signer(name).sign(b"x")
    canary = backend.canary("source/x")
    lease = Lease("l", "r", frozenset(keks), frozenset(keks), "a test", clock.now_s() + 9)
    (ours, theirs), caller = key_sockets(), Caller.this_process()
    thread = threading.Thread(target=KeyAgent(backend, lease, clock).serve, args=(ours, caller))
    thread.start()
    rank = AgentKeySource.of(theirs, caller)
    made = [rank.new_partition_key(each, Purpose.DATASET) for each in keks]
    (tmp_path / "wrapped").write_bytes(b"".join(wrapped for _, wrapped in made))
    rank.close()
    thread.join()

    root = read_root_key(folder) if passphrase is None else passphrase_root(folder, passphrase)
    secrets = live_secrets(folder, root)
    assert len(secrets) == 1 + 6 + 5 + 3
    for number, (key, _) in enumerate(made):
        secrets[f"partition {number}"] = bytes(key.view())
    for name, secret in secrets.items():
        allowed = {"root.key"} if name == "root" and passphrase is None else set()
        assert where(secret, tmp_path) == allowed, name
    assert where(canary.removeprefix("stoker-canary-").encode(), tmp_path) == set()
    assert where(PASSPHRASE.encode(), tmp_path) == set()


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    secret = bytes(range(100, 132))
    for number, content in enumerate(
        (secret, secret.hex().encode(), base64.b64encode(b"ab" + secret + b"c"))
    ):
        (tmp_path / str(number)).write_bytes(b"before" + content + b"after")
    assert where(secret, tmp_path) == {"0", "1", "2"}


def test_a_destroyed_kek_is_in_no_file_even_wrapped(tmp_path: Path) -> None:
    folder = tmp_path / "keys"
    with open_store(folder) as backend:
        ref = backend.create_kek(SCOPE, Purpose.DATASET, expires_s=None)
        secret = live_secrets(folder, read_root_key(folder))[f"kek/{ref}"]
        wrapped = (folder / "keystore.json").read_bytes().split(b'"handle":"v2:')[1][:132]
        backend.request_destroy(ref, "alice")
        backend.destroy(ref, "bob")
        assert where(secret, tmp_path) == set()
        assert not [path for path, content in files(tmp_path).items() if wrapped in content]
        assert f"kek/{ref}" not in live_secrets(folder, read_root_key(folder))
