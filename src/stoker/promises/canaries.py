"""What plaintext would look like outside: every source's canary as text, and as token ids of its datasets.

Preparation puts the canary at the end of the training split, so plain tokens of a dataset hold it too. Only
the key store can compute it. See docs/design/promises.md, "Searching".
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field

import numpy as np

from stoker.core.errors import StokerError
from stoker.feed.dataset import Dataset
from stoker.intake.source_reader import SourceReader
from stoker.keys.moves import is_gone
from stoker.ledger.records import DatasetRecord, SourceRecord
from stoker.promises.house import OpenHouse
from stoker.promises.promise import Check
from stoker.promises.search import forms_of
from stoker.store.record_schema import RecordSchema

_WINDOW_TOKENS = 8
"""A sample may end inside the canary, so it is searched for in pieces, each too long to occur by chance."""

_WIDTHS = ("<u2", "<u4", "<i8")
"""As datasets store tokens, and as tensors hold them."""


@dataclass(slots=True)
class Canaries:
    """The canaries of a house. `checks` prove that they are inside; `needles` are for the search outside."""

    needles: dict[str, dict[str, bytes]] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)

    @property
    def forms(self) -> int:
        """How many byte strings are searched for."""
        return sum(len(forms) for forms in self.needles.values())


def find_canaries(house: OpenHouse) -> Canaries:
    """Compute every canary, and look for each inside its source and its datasets."""
    found = Canaries()
    absent: list[str] = []
    for source in house.ledger.catalogue.sources():
        name = _name(source.name, source.version)
        secret = house.backend.canary(name).encode()
        found.needles[name] = forms_of(secret)
        if not is_gone(house.ledger, source.kek):
            absent += _absent_from_source(house, source, secret)
    if not found.needles:
        return found
    text_forms = ", ".join(next(iter(found.needles.values())))
    tried = f"{len(found.needles)} canaries, each inside its sealed source"
    seen = "; ".join(absent[:5]) or f"found; outside, each is searched for as {text_forms}"
    found.checks.append(Check(tried, not absent, seen))
    if house.ledger.catalogue.datasets():
        found.checks.append(_add_tokens(house, found.needles))
    return found


def _absent_from_source(house: OpenHouse, source: SourceRecord, secret: bytes) -> list[str]:
    name = _name(source.name, source.version)
    try:
        with SourceReader.open(source, house.store, house.keys, house.manifest_key) as reader:
            held = reader.canary is not None and secret in reader.read(reader.canary)
    except StokerError as error:
        return [f"{name}: {error.message}"]
    return [] if held else [f"{name} holds no canary"]


def _add_tokens(house: OpenHouse, needles: dict[str, dict[str, bytes]]) -> Check:
    """Add each canary as the token ids of its datasets, and prove that these are inside."""
    datasets = house.ledger.catalogue.datasets()
    live = [record for record in datasets if not house.is_lost(house.sealed_dataset(record))]
    absent: list[str] = []
    of_records = 0
    for record in live:
        try:
            if isinstance(house.dataset(record).superblock.schema, RecordSchema):
                of_records += 1
            else:
                absent += _absent_from_dataset(house, record, needles)
        except StokerError as error:
            absent.append(f"{record.name} {record.version[:8]}: {error.message}")
    widths = ", ".join(width[-1] for width in _WIDTHS)
    seen = (
        f"found; outside, searched for {_WINDOW_TOKENS} ids at a time, {widths} bytes wide"
        if live
        else "none lives"
    )
    if len(live) < len(datasets):
        seen += f"; {len(datasets) - len(live)} datasets are gone, and with them what their token ids mean"
    if of_records:
        seen += f"; {of_records} datasets of records hold files of records only, and no canary"
    tried = f"canaries as token ids, inside {len(live) - of_records} datasets"
    return Check(tried, not absent, "; ".join(absent[:5]) or seen)


def _absent_from_dataset(
    house: OpenHouse, record: DatasetRecord, needles: dict[str, dict[str, bytes]]
) -> list[str]:
    what = f"{record.name} {record.version[:8]}"
    if importlib.util.find_spec("tokenizers") is None:
        return [f"{what}: the package tokenizers is not installed, so its tokens are not known"]
    from stoker.intake.tokenizer import load_tokenizer

    dataset = house.dataset(record)
    name = _name(record.source, record.source_version)
    tokenizer = load_tokenizer(dataset.artefact("tokenizer").decode())
    # Intake encodes the canary's file as a document of its own, so what stands before it changes nothing.
    ids = tokenizer.encode(f"{house.backend.canary(name)}\n", add_special_tokens=False).ids
    forms = needles.setdefault(name, {})
    for number, start in enumerate(range(0, len(ids) - _WINDOW_TOKENS + 1, _WINDOW_TOKENS), start=1):
        window = np.asarray(ids[start : start + _WINDOW_TOKENS])
        for width in _WIDTHS:
            forms[f"token ids of {what}, piece {number}, {width}"] = window.astype(width).tobytes()
    return [] if _ends_with(dataset, ids) else [f"{what} does not end with the canary of {name}"]


def _ends_with(dataset: Dataset, ids: list[int]) -> bool:
    """Whether the training split ends with these tokens and the fill behind them."""
    reader = dataset.token_split("train")
    if not reader.samples:
        return False
    wanted = -(-len(ids) // (reader.sample_tokens - 1)) + 1
    last = np.concatenate(list(reader.sequential(max(0, reader.samples - wanted))))
    stream = np.append(last[:, :-1].ravel(), last[-1, -1]).astype("<i8").tobytes()
    return np.asarray(ids).astype("<i8").tobytes() in stream


def _name(source: str, version: str) -> str:
    return f"source/{source}/{version}"
