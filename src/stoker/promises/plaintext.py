"""Promise 2: plaintext lives in memory only. Every source carries a canary; here it is searched for."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from stoker.core.errors import StokerError
from stoker.feed.dataset import Dataset
from stoker.intake.review import review_digest
from stoker.intake.source_reader import SourceReader
from stoker.ledger.records import DatasetRecord
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check, PromiseReport, judged
from stoker.promises.search import Searched, forms_of, search

_MIN_TOKENS = 4


def check_plaintext(house: OpenHouse) -> PromiseReport:
    """Prove that the canaries are inside, then look for them outside: files, shared memory, processes."""
    needles: dict[str, dict[str, bytes]] = {}
    inside: list[str] = []
    for source in house.ledger.catalogue.sources():
        name = f"source/{source.name}/{source.version}"
        secret = house.backend.canary(name).encode()
        needles[name] = forms_of(secret)
        if house.ledger.catalogue.is_tombstoned(source.kek):
            continue
        try:
            with SourceReader.open(source, house.store, house.keys, _public_key(house)) as reader:
                held = reader.canary is not None and secret in reader.read(reader.canary)
        except StokerError as error:
            inside.append(f"{name}: {error.message}")
            continue
        if not held:
            inside.append(f"{name} holds no canary")
    if not needles:
        return judged(2, [], missing="No source has been imported, so there is no canary to search for.")
    checks = [
        Check(
            f"{len(needles)} canaries, each inside its sealed source",
            not inside,
            "; ".join(inside) or "found",
        )
    ]
    tokens = _as_tokens(house, needles)
    checks.append(
        _searched("STOKER_HOME: store, cache, runs, keys, ledger", search([house.home.root], tokens))
    )
    temporary = [Path("/dev/shm"), Path(tempfile.gettempdir())]  # noqa: S108 - searched, not written
    checks.append(
        _searched(
            "shared memory and the temporary folder, files since the first import",
            search(temporary, needles, newer_s=_since(house)),
        )
    )
    checks.append(_processes(needles))
    checks.append(_swap())
    return judged(2, checks)


def _public_key(house: OpenHouse) -> bytes:
    return house.backend.signer("manifest").public_key


def _since(house: OpenHouse) -> float:
    return min(source.imported_s for source in house.ledger.catalogue.sources())


def _as_tokens(house: OpenHouse, needles: Mapping[str, Mapping[str, bytes]]) -> dict[str, dict[str, bytes]]:
    """The needles, and each also as the token ids that its datasets would hold."""
    extended = {name: dict(forms) for name, forms in needles.items()}
    for record in house.ledger.catalogue.datasets():
        if house.ledger.catalogue.is_tombstoned(record.kek) or house.clock.now_s() >= record.expires_s:
            continue
        name = f"source/{record.source}/{record.source_version}"
        for form, value in _token_forms(house, record, house.backend.canary(name)):
            extended[name][form] = value
    return extended


def _token_forms(house: OpenHouse, record: DatasetRecord, text: str) -> Iterator[tuple[str, bytes]]:
    from tokenizers import Tokenizer

    dataset = Dataset.open(
        house.store,
        None,
        name=record.name,
        version=record.version,
        root=record.root,
        public_key=_public_key(house),
        keys=house.keys,
        review_digest=review_digest(house.ledger.catalogue.review(record.review)),
    )
    tokenizer = Tokenizer.from_buffer(bytes(dataset.artefact("tokenizer")))
    ids = tokenizer.encode(text, add_special_tokens=False).ids[1:-1]
    if len(ids) >= _MIN_TOKENS:
        yield f"tokens of {record.name}", b"".join(each.to_bytes(2, "little") for each in ids)


def _searched(where: str, found: Searched) -> Check:
    seen = f"{found.files:,} files, {found.content_bytes:,} bytes, no canary in any form"
    if found.hits:
        seen = "; ".join(f"{hit.path} at byte {hit.offset} ({hit.form})" for hit in found.hits[:5])
    elif found.unreadable:
        seen = f"could not read {', '.join(str(path) for path in found.unreadable[:5])}"
    return Check(where, not found.hits and not found.unreadable, seen)


def _processes(needles: Mapping[str, Mapping[str, bytes]]) -> Check:
    """Command lines and environments of every process that may be looked at."""
    looked, leaks = 0, []
    for folder in Path("/proc").glob("[0-9]*"):
        for leaf in ("cmdline", "environ"):
            try:
                content = (folder / leaf).read_bytes()
            except OSError:
                continue
            looked += 1
            leaks += [
                f"{folder.name}/{leaf}"
                for forms in needles.values()
                if any(value in content for value in forms.values())
            ]
    seen = "; ".join(leaks[:5]) or f"{looked} looked at, no canary"
    return Check("command lines and environments of processes", not leaks, seen)


def _swap() -> Check:
    """Keys are locked in memory, but data pages can be swapped out where there is swap."""
    try:
        swaps = Path("/proc/swaps").read_text().splitlines()[1:]
    except OSError:
        return Check("swap", os.name != "posix", "cannot be looked at on this system")
    names = ", ".join(line.split()[0] for line in swaps if line.strip())
    return Check(
        "swap", not names, f"active: {names}; data pages may reach it" if names else "none is active"
    )
