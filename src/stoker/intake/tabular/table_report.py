"""Measure a source's table, and record that it was measured. See docs/design/measured.md, "Tables"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from stoker.core.canonical import JsonValue
from stoker.core.progress import Progress
from stoker.core.result import plain
from stoker.intake.errors import NoTable
from stoker.intake.left_out import printable
from stoker.intake.source_reader import SourceReader
from stoker.intake.tabular.anonymity import Anonymising, Column, Diversity
from stoker.intake.tabular.rows import TableRows
from stoker.keys.backend import KeyBackend
from stoker.keys.partition import BackendKeySource
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import SourceRecord
from stoker.store.objects import ObjectStore

_SHOWN_COLUMNS = 20


@dataclass(frozen=True, slots=True)
class TableReport:
    """What a source's table hides. `holds`: k and every l are at least what was asked for.

    A row shares its quasi-identifiers with at least `k` rows, itself counted. `mean_risk` is the chance of
    guessing a row's person right from them, over all rows; the worst row's is one in `k`.
    """

    kind: ClassVar[str] = "table"
    version: ClassVar[int] = 1

    source: str
    source_version: str
    manifest_root: str
    columns: tuple[str, ...]
    least_k: int
    least_l: int
    rows: int
    classes: int
    k: int
    rows_below: int
    single_rows: int
    mean_risk: float
    sizes: Mapping[str, int]
    diversity: Mapping[str, Diversity]
    lacking: int
    broken: int
    holds: bool


def measure_table(
    record: SourceRecord,
    columns: Sequence[Column],
    sensitive: Sequence[str],
    *,
    least_k: int,
    least_l: int,
    actor: str,
    ledger: Ledger,
    backend: KeyBackend,
    store: ObjectStore,
    progress: Progress,
) -> TableReport:
    """k-anonymity and l-diversity of the source's rows, recorded as an act. Holds counts, never a value.

    Raises NoTable when no row has every column, and what reading the source raises.
    """
    wanted = frozenset([*(column.name for column in columns), *sensitive])
    counting = Anonymising(columns, sensitive)
    keys = BackendKeySource(backend)
    with (
        SourceReader.open(record, store, keys, backend.signer("manifest").public_key) as reader,
        progress.task(f"table {record.name}", None, "rows") as task,
    ):
        rows = TableRows(reader, wanted)
        for row in rows:
            counting.add(row)
            task.advance(1)
    if not counting.rows:
        there = ", ".join(sorted(printable(name[:40]) for name in rows.columns)[:_SHOWN_COLUMNS]) or "none"
        raise NoTable(
            f"No row of source {record.name} has the columns {', '.join(sorted(wanted))}; it has {there}.",
            hint="Name columns that are there. A source has a table's columns when imported whole (form "
            "folder), or with extra_columns.",
        )
    found = counting.result(least_k, least_l)
    report = TableReport(
        source=record.name,
        source_version=record.version,
        manifest_root=record.manifest_root,
        columns=tuple(map(str, columns)),
        least_k=least_k,
        least_l=least_l,
        rows=found.rows,
        classes=found.classes,
        k=found.k,
        rows_below=found.rows_below,
        single_rows=found.single_rows,
        mean_risk=round(found.classes / found.rows, 6),
        sizes=found.sizes,
        diversity=found.diversity,
        lacking=rows.lacking,
        broken=rows.broken,
        holds=found.k >= least_k and all(one.distinct_l >= least_l for one in found.diversity.values()),
    )
    detail: dict[str, JsonValue] = {
        "version": record.version,
        "manifest_root": record.manifest_root,
        "columns": list(report.columns),
        "rows": report.rows,
        "k": report.k,
        "diversity": {name: plain(one) for name, one in report.diversity.items()},
    }
    with ledger.act(actor=actor, action="source.table", subject=f"source/{record.name}", detail=detail):
        return report
