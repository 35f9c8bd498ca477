"""Every parser meets what fuzzing once found, its own seeds, and mutations of them; see `make fuzz`."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fuzz_targets import TARGETS, Target, meets

CORPUS = Path(__file__).with_name("corpus")
MUTATIONS = 200
SLOW = {"recipe_file": 10, "run_file": 10}
"""A whole configuration takes milliseconds to judge: one mutation in this many."""


def inputs(name: str) -> Iterator[tuple[str, bytes]]:
    for number, seed in enumerate(TARGETS[name].seeds()):
        yield f"seed {number}", seed
    for path in sorted((CORPUS / name).glob("*")):
        yield path.name, path.read_bytes()


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four cuts, copies, flips or insertions of numbers that parsers get wrong."""
    body = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(body) + 1)
        match rng.randrange(6):
            case 0 if body:
                body[at % len(body)] ^= 1 << rng.randrange(8)
            case 1:
                del body[at : at + rng.randint(1, 9)]
            case 2:
                body[at:at] = body[at : at + rng.randint(1, 40)]
            case 3:
                body[at : at + 8] = rng.choice(
                    (b"\xff" * 8, bytes(8), b"\x7f" + b"\xff" * 7, b"\x80" + bytes(7))
                )
            case 4:
                body[at:at] = rng.choice(
                    (b"1e999", b"NaN", b"-1", b"\\ud800", b"[[[[", b'"', b"\0", b"9" * 30)
                )
            case _:
                del body[at:]
    return bytes(body)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_its_own_errors_comes_out_of_a_parser(name: str) -> None:
    rng = random.Random(name)
    tried = 0
    for label, data in inputs(name):
        for turn in range(MUTATIONS // SLOW.get(name, 1)):
            told = data if turn == 0 else mutated(data, rng)
            try:
                meets(TARGETS[name], told)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
                pytest.fail(f"{label}, mutation {turn}: {type(error).__name__}: {error}; input {told.hex()}")
            tried += 1
    assert tried >= MUTATIONS // SLOW.get(name, 1)


@pytest.mark.parametrize("name", TARGETS)
def test_mutations_begin_from_what_the_parser_takes(name: str) -> None:
    target = TARGETS[name]
    accepted = 0
    for seed in target.seeds():
        try:
            target.run(seed)
        except target.errors:
            continue
        accepted += 1
    assert accepted >= 1


def test_an_error_that_is_not_the_parsers_own_is_noticed() -> None:
    target = Target(json.loads, lambda: (b"{}",))
    meets(target, b"{}")
    with pytest.raises(ValueError, match="Expecting"):
        meets(target, b"{")
