"""What is fuzzed: each parser of bytes that may come from an attacker, with valid inputs to begin from.

A parser may only answer or raise one of its own errors; anything else, a hang or a large allocation is a
finding. `make fuzz` runs each for a minute; tests/fuzz/test_corpus.py runs what was found, and mutations.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tomllib
import wave
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from stoker.core.canonical import canonical_json
from stoker.core.config import Layer, load
from stoker.core.errors import StokerError
from stoker.core.events import Event, EventKind, decode_event, encode_event
from stoker.core.ids import ReviewId, RunId, VersionId
from stoker.core.signing import Ed25519Signer
from stoker.feed.media_headers import ogg_is_whole, sound_format, wav_claim, webp_size
from stoker.fleet.agent_plan import decode_order
from stoker.fleet.agent_plan import decode_plan as decode_agent_plan
from stoker.fleet.spread.node_lines import decode_from_host
from stoker.fleet.spread.node_lines import decode_plan as decode_node_plan
from stoker.intake.report_format import Example, ScanReport, decode_report, encode_report
from stoker.intake.review_gate import facts_of
from stoker.intake.review_machine import standing
from stoker.intake.review_request import (
    answers_in,
    decision_message,
    name_model_in,
    policy_digest,
    policy_in,
    request_digest,
    request_fault,
    terms_in,
    terms_row,
)
from stoker.intake.source_index import SourceFile, decode_index, encode_index
from stoker.intake.sources.media import HeaderFault, probe
from stoker.keys.agent_protocol import (
    Request,
    decode_answer,
    decode_hello,
    decode_request,
    encode_error,
    encode_hello,
    encode_key,
    encode_request,
)
from stoker.keys.errors import AgentLost
from stoker.keys.lease import Use
from stoker.keys.refs import KekRef, Purpose
from stoker.keys.rewrap import Move, decode_move, encode_move
from stoker.keys.secret import SecretKey
from stoker.ledger import rows
from stoker.ledger.notes import MalformedNote, parse_checkpoint, sign_checkpoint
from stoker.ledger.records import ReviewRecord, ReviewState
from stoker.ledger.witness import parse_submission
from stoker.spec.kinds import Kind
from stoker.spec.recipe import PolicySpec, RecipeSpec
from stoker.spec.run import RunSpec
from stoker.spec.terms import ReviewTerms
from stoker.store.header import COMMITMENT_BYTES, StreamKind, StreamLabel, encode_uncommitted, parse_header
from stoker.store.pages import PageShape, build_pages, decode_page
from stoker.store.peers_wire import PeerFault
from stoker.store.superblock import SampleSchema, Split, Superblock
from stoker.train.checkpoint_metadata import decode_metadata, encode_metadata
from stoker.train.commit_record import Commit, Fence, Kept, Part, decode_record, encode_record
from stoker.train.tensor_file import parse_header as parse_tensors
from stoker.train.tensor_file import tensor_file
from support import fuzz_run

PLACE = "fuzzed"
KEK = KekRef("dataset/text/0123", 1)


@dataclass(frozen=True, slots=True)
class Target:
    """A parser: `run` gives it any bytes; `seeds` makes valid inputs from which mutations begin."""

    run: Callable[[bytes], Any]
    seeds: Callable[[], tuple[bytes, ...]]
    errors: tuple[type[Exception], ...] = (StokerError,)


def meets(target: Target, data: bytes) -> None:
    """Give `data` to the parser; whatever is not its own error comes through."""
    try:
        target.run(data)
    except target.errors:
        return


# -- the parsers


def _json_of(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def _metadata(data: bytes) -> Any:
    value = _json_of(data)
    return decode_metadata(value, 2, PLACE) if isinstance(value, dict) else None


def _review(data: bytes) -> Any:
    """A review as the database has it, `[row, terms]`, and all that is asked of it before it is believed."""
    value = _json_of(data)
    try:
        row, asked = value
        terms_text = canonical_json(asked).decode()
        row["decision_signature"] = row["decision_signature"] and bytes.fromhex(row["decision_signature"])
        review = rows.review_of(row)
        terms = rows.review_terms_of({"review": row["id"], "terms": terms_text})
        rows.check_types(review), rows.check_types(terms)
    except (TypeError, ValueError, KeyError, RecursionError):  # the ledger says LedgerUnusable of these
        return None
    shown = terms_in(terms), policy_in(terms), answers_in(terms), name_model_in(terms)
    return shown, request_fault(review, terms), decision_message(review), standing(facts_of(review), 1.0)


def _toml(spec: type[Any]) -> Callable[[bytes], Any]:
    def run(data: bytes) -> Any:
        try:
            values = tomllib.loads(data.decode())
        except (ValueError, RecursionError):
            return None
        return load(spec, [Layer(PLACE, values)])

    return run


def _media(data: bytes) -> Any:
    webp_size(data), sound_format(data), wav_claim(data), ogg_is_whole(data)
    return probe(data)


# -- what they take


def _headers() -> tuple[bytes, ...]:
    label = StreamLabel(StreamKind.SHARD, "dataset/text", "0" * 32, 7, 1, bytes(32))
    return (
        encode_uncommitted(label, 20, Purpose.DATASET, KEK, b"w" * 66, b"s" * 32) + bytes(COMMITMENT_BYTES),
    )


def _superblocks() -> tuple[bytes, ...]:
    schema = SampleSchema.fit(vocabulary=2048, sample_tokens=129, chunk_log2=16, samples_per_shard=4096)
    block = Superblock(
        subject="dataset/text",
        version="0" * 32,
        kek=str(KEK),
        review_digest=bytes(32),
        chunk_log2=16,
        schema=schema,
        splits=(Split("train", 0, 1, 100),),
        source_root="1" * 64,
        recipe_digest="2" * 64,
        shards=1,
        samples=100,
        object_bytes=70_000,
        fan_out=4096,
        levels=1,
    )
    return (block.encode(),)


def _pages() -> tuple[bytes, ...]:
    return tuple(data for _, _, data in build_pages(bytes(64 * 3), 4096))


def _metadatas() -> tuple[bytes, ...]:
    chunks = [ChunkStorageMetadata(torch.Size((at, 0)), torch.Size((2, 3))) for at in (0, 2)]
    tensor = TensorStorageMetadata(TensorProperties(dtype=torch.float32), torch.Size((4, 3)), chunks)
    places: dict[Any, Any] = {
        MetadataIndex("w", chunk.offsets): number for number, chunk in enumerate(chunks)
    }
    return (json.dumps(encode_metadata(Metadata({"w": tensor}, storage_data=places))).encode(),)


def _records() -> tuple[bytes, ...]:
    fence = Fence("r-1", 1, "0" * 64, 1, "7" * 32, None)
    part = Part("runs/r-1/a", "1" * 64, 100, 60)
    commit = Commit(
        "r-1", 2, "0" * 64, 1, "7" * 32, 10, "runs/r-1/c", "3" * 32, (part,), (Kept(1, 5, "p"),), {}, {}
    )
    return encode_record(fence), encode_record(commit)


def _tensors() -> tuple[bytes, ...]:
    tensors = {"a@0,0": torch.zeros(2, 3), "b@": torch.zeros((), dtype=torch.int64)}
    return (b"".join(bytes(piece) for piece in tensor_file(tensors)),)


def _requests() -> tuple[bytes, ...]:
    seal, open_ = (
        Request(Use.SEAL, KEK, Purpose.CHECKPOINT),
        Request(Use.OPEN, KEK, Purpose.DATASET, b"w" * 66),
    )
    return bytes(encode_request(seal)), bytes(encode_request(open_))


def _answers() -> tuple[bytes, ...]:
    with SecretKey() as key:
        return bytes(encode_key(key, b"w" * 66)), bytes(encode_error(AgentLost("gone", hint="look")))


def _hellos() -> tuple[bytes, ...]:
    with SecretKey() as key:
        return (bytes(encode_hello(key)),)


def _reports() -> tuple[bytes, ...]:
    example = Example(Kind.EMAIL, "a.txt", 7, "<EMAIL xx@xx.xx>")
    report = ScanReport("s", "0" * 32, "1" * 64, "2" * 64, 1, 10, {"email": 1}, {"email": 1}, (example,))
    return (encode_report(report),)


def _reviews() -> tuple[bytes, ...]:
    policy, id = PolicySpec(), ReviewId("rev-1")
    terms = terms_row(id, ReviewTerms(runs=("nightly",), least_recall=0.5), policy, None)
    hexes = ("1" * 64, "2" * 64, policy_digest(policy))
    review = ReviewRecord(
        id, "notes", VersionId("0" * 32), *hexes, "research", "ada", 1.0, 9.0, "", ReviewState.APPROVED,
        "ben", 2.0, "seen", b"s" * 64,
    )  # fmt: skip
    review = replace(review, request_digest=request_digest(review, terms))
    assert request_fault(review, terms) is None
    row = rows.to_row(review) | {"decision_signature": "73" * 64}
    return (json.dumps([row, dict(terms.terms)]).encode(),)


def _moves() -> tuple[bytes, ...]:
    later = KekRef(KEK.scope, KEK.epoch + 1)
    return (encode_move(Move(KEK, later, {bytes(32): b"w" * 66, b"d" * 32: b"x" * 66})),)


def _submissions() -> tuple[bytes, ...]:
    return (b"old 3\n" + base64.b64encode(bytes(32)) + b"\n\n" + _notes()[0],)


def _events() -> tuple[bytes, ...]:
    event = Event(
        1.5, 2.5, RunId("r-1"), 1, 0, "node", EventKind.RANK_HUNG, {"silent_s": 1.0, "section": "data"}
    )
    return (encode_event(event),)


def _notes() -> tuple[bytes, ...]:
    signer = Ed25519Signer.from_seed(bytes(32))
    return (sign_checkpoint(5, hashlib.sha256(b"root").digest(), signer).text.encode(),)


def _indexes() -> tuple[bytes, ...]:
    return (
        encode_index([SourceFile("a/b.txt", 3, bytes(32), 0, 0), SourceFile("c.txt", 5, bytes(32), 0, 3)]),
    )


def _clips() -> tuple[bytes, ...]:
    clip = io.BytesIO()
    with wave.open(clip, "wb") as writer:
        writer.setparams((1, 2, 8000, 4, "NONE", ""))
        writer.writeframes(bytes(8))
    png = bytes.fromhex("89504e470d0a1a0a0000000d4948445200000010000000100802000000")
    jpeg = bytes.fromhex("ffd8ffe000104a46494600010100000100010000ffc00011080010001003012200021101031101")
    webp = b"RIFF\x24\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(18)
    flac = b"fLaC\0\0\0\x22" + bytes(34)
    ogg = b"OggS\0\x02" + bytes(20) + b"\x01\x1e\x01vorbis" + bytes(23)
    return clip.getvalue(), png, jpeg, webp, flac, ogg


def _recipes() -> tuple[bytes, ...]:
    return (b'vocabulary = 512\n[policy]\nredact = ["email"]\n[quality]\nnormalise = "nfc"\n',)


def _runs() -> tuple[bytes, ...]:
    return (b'dataset = "text"\n[model]\nlayers = 2\n[train]\nsteps = 3\n[launch]\nranks = 1\n',)


TARGETS: dict[str, Target] = {
    "header": Target(lambda data: parse_header(data, max(len(data), 1), PLACE), _headers),
    "superblock": Target(lambda data: Superblock.decode(data, PLACE), _superblocks),
    "page": Target(lambda data: decode_page(data, PageShape(3, 4096), 0, 0, None, PLACE), _pages),
    "checkpoint_metadata": Target(_metadata, _metadatas),
    "commit_record": Target(lambda data: decode_record(data, PLACE), _records),
    "tensor_file": Target(lambda data: parse_tensors(data, PLACE), _tensors),
    "key_request": Target(lambda data: decode_request(memoryview(data)), _requests),
    "key_answer": Target(lambda data: decode_answer(memoryview(data)), _answers),
    "key_hello": Target(lambda data: decode_hello(memoryview(data)), _hellos),
    "event": Target(lambda data: decode_event(data, PLACE), _events),
    "scan_report": Target(lambda data: decode_report(data, PLACE), _reports),
    "review_record": Target(_review, _reviews),
    "moved_keys": Target(lambda data: decode_move(data, PLACE), _moves),
    "witness_request": Target(
        lambda data: parse_submission(data.decode("utf-8", "surrogateescape")),
        _submissions,
        (MalformedNote,),
    ),
    "source_index": Target(lambda data: decode_index(data, PLACE), _indexes),
    "audit_checkpoint": Target(
        lambda data: parse_checkpoint(data.decode("utf-8", "surrogateescape")), _notes, (MalformedNote,)
    ),
    "kek_name": Target(
        lambda data: KekRef.parse(data.decode("utf-8", "surrogateescape")), lambda: (str(KEK).encode(),)
    ),
    "media": Target(_media, _clips, (HeaderFault,)),
    "recipe_file": Target(_toml(RecipeSpec), _recipes),
    "run_file": Target(_toml(RunSpec), _runs),
    "peer_handshake": Target(fuzz_run.strangers_bytes, fuzz_run.strangers_seeds, (PeerFault,)),
    "peer_request": Target(fuzz_run.peer_request, fuzz_run.request_seeds, (PeerFault,)),
    "peer_answer": Target(fuzz_run.peer_answers, fuzz_run.answer_seeds, (PeerFault,)),
    "agent_plan": Target(decode_agent_plan, fuzz_run.agent_plan_seeds),
    "agent_order": Target(decode_order, fuzz_run.order_seeds),
    "node_plan": Target(decode_node_plan, fuzz_run.node_plan_seeds),
    "line_to_host": Target(fuzz_run.lease_words, fuzz_run.to_host_seeds),
    "line_from_host": Target(decode_from_host, fuzz_run.from_host_seeds),
}
