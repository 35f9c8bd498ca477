"""A witness on a second host: keeps what it saw of a log, and cosigns only what grew from that.

It needs neither the ledger nor its key, only the log's public key. What it is handed is the request of
C2SP's tlog-witness (`old SIZE`, a consistency proof, a checkpoint); what it gives is a cosignature. Whoever
rewrites the log, or turns it back, gets none, and the contradiction stays here. See docs/design/ledger.md,
"Witnesses".
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from stoker.core.atomic import write_atomic
from stoker.core.clock import Clock, iso_utc
from stoker.core.signing import Ed25519Signer
from stoker.ledger import merkle
from stoker.ledger.cosignatures import WitnessKey, cosign
from stoker.ledger.errors import BadLedgerKey, LedgerRefused, LedgerRolledBack
from stoker.ledger.notes import (
    MAX_NOTE_BYTES,
    MalformedNote,
    SignedCheckpoint,
    is_key_name,
    parse_verifier_key,
    split_note,
    verifier_key,
    verify_checkpoint,
)

MAX_PROOF_HASHES: Final = 63
_KEY_HEADING: Final = "stoker-witness-key 1 ed25519"
_MAX_EVIDENCE: Final = 1000
_ASK: Final = "Make it with: stoker audit growth --since SIZE"


@dataclass(frozen=True, slots=True)
class Submission:
    """What a witness is handed: the size that it saw last, a proof of growth from there, and a checkpoint."""

    old: int
    proof: tuple[bytes, ...]
    checkpoint: str

    @property
    def text(self) -> str:
        """The body of tlog-witness's add-checkpoint."""
        lines = [f"old {self.old}", *(base64.b64encode(each).decode() for each in self.proof)]
        return "\n".join(lines) + f"\n\n{self.checkpoint}"


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What the witness says: its signature `line`, to be added to the checkpoint, and the `note` with it."""

    origin: str
    size: int
    time_s: int
    line: str
    note: str


def parse_submission(text: str) -> Submission:
    """Raises MalformedNote for what is no request of tlog-witness."""
    if len(text.encode("utf-8", "replace")) > 2 * MAX_NOTE_BYTES:
        raise MalformedNote("it is too long")
    head, divider, checkpoint = text.partition("\n\n")
    first, *lines = head.split("\n")
    word, _, size = first.partition(" ")
    if not divider or word != "old" or not (size.isascii() and size.isdigit()) or len(size) > 20:
        raise MalformedNote("it does not begin with 'old SIZE', proof lines and an empty line")
    if len(lines) > MAX_PROOF_HASHES:
        raise MalformedNote(f"the proof has more than {MAX_PROOF_HASHES} hashes")
    try:
        proof = tuple(base64.b64decode(line, validate=True) for line in lines)
    except (binascii.Error, ValueError):
        raise MalformedNote("a line of the proof is not base64") from None
    if any(len(each) != merkle.HASH_BYTES for each in proof):
        raise MalformedNote("a line of the proof is no hash")
    return Submission(int(size), proof, checkpoint)


class Witness:
    """The folder of one witness: its key, what it saw of each log, and evidence of what it refused."""

    def __init__(self, folder: Path, name: str, signer: Ed25519Signer, clock: Clock) -> None:
        self._folder = folder
        self._signer = signer
        self._clock = clock
        self.key = WitnessKey(name, signer.public_key)

    @classmethod
    def open(cls, folder: Path, clock: Clock, *, name: str | None = None) -> Witness:
        """The witness in `folder`, made under `name` when absent. Raises BadLedgerKey, LedgerRefused."""
        path = folder / "witness.key"
        if not path.exists():
            if name is None or not is_key_name(name):
                raise LedgerRefused(
                    f"There is no witness in {folder}, and no name to make one under.",
                    hint="Give --name, such as the host's name, without spaces or plus signs.",
                )
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            seed = secrets.token_bytes(32)
            write_atomic(path, f"{_KEY_HEADING} {name}\n{seed.hex()}\n".encode())
        return cls(folder, *_read_key(path), clock)

    def seen(self, origin: str) -> SignedCheckpoint | None:
        """The newest checkpoint of that log which this witness cosigned."""
        state = self._state(origin)
        return None if state is None else verify_checkpoint(state["note"], bytes.fromhex(state["log"]))

    def trust(self, log_key: str) -> str:
        """Watch the log whose verifier key is `log_key` from now on; its origin. Raises MalformedNote."""
        _, public_key = parse_verifier_key(log_key)
        origin = verifier_key(public_key).partition("+")[0]
        path = self._folder / "logs" / f"{_file_name(origin)}.key"
        path.parent.mkdir(exist_ok=True, mode=0o700)
        write_atomic(path, f"{verifier_key(public_key)}\n".encode())
        return origin

    def add(self, text: str) -> Witnessed:
        """Cosign the checkpoint in the request `text` when its log only grew since what was seen of it.

        Raises LedgerRefused for a request that is none or a log that is not watched, BadSignature when the
        log did not sign it, LedgerRolledBack when the log was turned back, forked or rewritten: what
        contradicts then lies in the folder `evidence`.
        """
        try:
            submission = parse_submission(text)
            body, _ = split_note(submission.checkpoint)
            origin = body.split("\n", 1)[0]
            public_key = self._key_of(origin)
            checkpoint = verify_checkpoint(submission.checkpoint, public_key)
        except MalformedNote as error:
            raise LedgerRefused(f"The request to the witness cannot be read: {error}.", hint=_ASK) from error
        with self._locked():
            self._judge(submission, checkpoint, text)
            time_s = int(self._clock.now_s())
            line = cosign(body, self.key.name, self._signer, time_s)
            note = f"{submission.checkpoint.rstrip(chr(10))}\n{line}"
            state = {"log": public_key.hex(), "note": note, "time_s": time_s}
            self._write(f"seen/{_file_name(origin)}/{checkpoint.size:020}.note", note)
            self._write(f"logs/{_file_name(origin)}.json", json.dumps(state))
        return Witnessed(origin, checkpoint.size, time_s, line, note)

    def _judge(self, submission: Submission, checkpoint: SignedCheckpoint, text: str) -> None:
        before = self.seen(checkpoint.origin)
        size, root = (0, merkle.EMPTY_ROOT) if before is None else (before.size, before.root)
        about = f"Log {checkpoint.origin}"
        if checkpoint.size == size and checkpoint.root != root:
            raise self._contradiction(
                f"{about} has signed two different states of {size} entries: it is forked.", text, before
            )
        if checkpoint.size < size:
            kept = self._kept(checkpoint.origin, checkpoint.size)
            forked = kept is not None and kept.root != checkpoint.root
            told = "and with other entries: it is forked" if forked else "so it was turned back"
            raise self._contradiction(
                f"{about} shows {checkpoint.size} entries, but it had {size} before, {told}.", text, before
            )
        if submission.old != size:
            raise LedgerRefused(
                f"This witness saw {size} entries of {checkpoint.origin} last, not {submission.old}.",
                hint=f"Run: stoker audit growth --since {size}",
            )
        if not merkle.consistency_holds(size, checkpoint.size, root, checkpoint.root, submission.proof):
            raise self._contradiction(
                f"{about} did not grow from its first {size} entries: it was rewritten, or that is no proof.",
                text,
                before,
            )

    def _contradiction(self, message: str, text: str, before: SignedCheckpoint | None) -> LedgerRolledBack:
        """Keep both sides, durably, before saying no."""
        now_s = self._clock.now_s()
        name = f"{iso_utc(now_s).replace(':', '')}-{hashlib.sha256(text.encode()).hexdigest()[:16]}.txt"
        folder = self._folder / "evidence"
        kept = len(list(folder.glob("*.txt"))) if folder.exists() else 0
        place = f"The two sides are kept in {folder / name}"
        if kept < _MAX_EVIDENCE:
            was = "nothing\n" if before is None else before.text
            told = f"{iso_utc(now_s)} {message}\n\n--- seen before\n{was}\n--- handed in\n{text}"
            self._write(f"evidence/{name}", told)
        else:
            place = f"{folder} holds {kept} contradictions already, and takes no more"
        return LedgerRolledBack(message, hint=f"{place}. Do not trust the log; ask who keeps it.")

    def _kept(self, origin: str, size: int) -> SignedCheckpoint | None:
        path = self._folder / "seen" / _file_name(origin) / f"{size:020}.note"
        return verify_checkpoint(path.read_text(), self._key_of(origin)) if path.exists() else None

    def _key_of(self, origin: str) -> bytes:
        path = self._folder / "logs" / f"{_file_name(origin)}.key"
        if not path.exists():
            raise LedgerRefused(
                f"This witness does not watch the log {origin[:80]!a}.",
                hint="Give its verifier key once, from a place you trust: --log KEY.",
            )
        return parse_verifier_key(path.read_text())[1]

    def _state(self, origin: str) -> dict[str, str] | None:
        path = self._folder / "logs" / f"{_file_name(origin)}.json"
        return dict(json.loads(path.read_text())) if path.exists() else None

    def _write(self, name: str, text: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_atomic(path, text.encode("utf-8", "backslashreplace"))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Two requests at once must not both be judged against the same past."""
        descriptor = os.open(self._folder / "witness.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _file_name(origin: str) -> str:
    """A log's name as a file's: names come from outside."""
    return hashlib.sha256(origin.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _read_key(path: Path) -> tuple[str, Ed25519Signer]:
    if path.stat().st_mode & 0o077:
        raise BadLedgerKey(
            f"The witness's key {path} is open to others, who could sign in its name.",
            hint=f"Run: chmod 600 {path} — and if someone may have read it, make a new witness.",
        )
    try:
        first, seed_text, rest = path.read_text().split("\n")
        heading, _, name = first.rpartition(" ")
        seed = bytes.fromhex(seed_text)
    except (ValueError, UnicodeDecodeError):
        heading, name, seed, rest = "", "", b"", ""
    if heading != _KEY_HEADING or not is_key_name(name) or len(seed) != 32 or rest:
        raise BadLedgerKey(f"{path} is no key of a witness.", hint="Restore it from your copy.")
    return name, Ed25519Signer.from_seed(seed)
