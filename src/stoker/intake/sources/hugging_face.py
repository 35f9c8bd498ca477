"""Hugging Face data sets as `save_to_disk` leaves them: state.json, dataset_info.json, Arrow streams.

The package `datasets` is not used: its loaders run code and follow paths. Files that state.json does not
name are left out. See docs/design/intake.md, "Sources".
"""

from __future__ import annotations

import functools
import json
from collections.abc import Generator
from typing import Any, Final

from stoker.intake.errors import BrokenSource
from stoker.intake.left_out import Reason, printable
from stoker.intake.sources.arrow_rows import be_small, need_pyarrow, send_batch
from stoker.intake.sources.confined import CannotGoOn, WorkerSide
from stoker.intake.sources.files import Candidate
from stoker.intake.sources.form import Intake
from stoker.intake.sources.judge import Item, NotTaken
from stoker.intake.sources.parquet import WorkerFile, class_counts, confined_rows
from stoker.intake.sources.rows import NoSuchColumn, pick_columns
from stoker.spec.source import ImportSpec

STATE: Final = "state.json"
INFO: Final = "dataset_info.json"
SPLITS: Final = "dataset_dict.json"
_MAX_JSON_BYTES: Final = 64 * 1024 * 1024
_SLICE_ROWS: Final = 1024


def hugging_face_items(intake: Intake) -> Generator[Item]:
    """The rows of every data set in the source, in the order of their folders and of state.json."""
    need_pyarrow("a Hugging Face data set")
    by_path = {candidate.path: candidate for candidate in intake.candidates}
    read = {path for path in by_path if path.rpartition("/")[2] in (STATE, INFO, SPLITS)}
    for path in sorted(by_path, key=str.encode):
        if path.rpartition("/")[2] == SPLITS:
            _check_splits(intake, by_path, by_path[path])
        if path.rpartition("/")[2] != STATE:
            continue
        folder = path[: -len(STATE)]
        try:
            names, classes = _data_files(intake, by_path, folder)
        except NotTaken as not_taken:
            intake.judge.settle(not_taken)
            continue
        for name in names:
            data = by_path.get(folder + name)
            if data is None:
                text = f"{printable(path)} names {printable(name)}, which is not there."
                _settle(intake, Reason.TRUNCATED, folder + name, text)
                continue
            if data.path not in read:
                read.add(data.path)
                parser = functools.partial(_parse, spec=intake.spec, classes=classes)
                yield from confined_rows(intake, data, parser)
    for candidate in intake.candidates:
        if candidate.path not in read:
            intake.judge.not_of_form(candidate.path)
            intake.advance(candidate.size_bytes)


def _settle(intake: Intake, reason: Reason, place: str, text: str) -> None:
    intake.judge.settle(intake.judge.fault(reason, BrokenSource, place, text))


def _check_splits(intake: Intake, by_path: dict[str, Candidate], candidate: Candidate) -> None:
    """Every split that dataset_dict.json names has its folder."""
    folder = candidate.path[: -len(SPLITS)]
    try:
        splits = _json(intake, candidate).get("splits")
    except NotTaken as not_taken:
        intake.judge.settle(not_taken)
        return
    for name in splits if isinstance(splits, list) else []:
        if f"{folder}{name}/{STATE}" not in by_path:
            text = f"{printable(candidate.path)} names split {printable(str(name))}, which is not there."
            _settle(intake, Reason.TRUNCATED, f"{folder}{name}", text)


def _data_files(
    intake: Intake, by_path: dict[str, Candidate], folder: str
) -> tuple[list[str], dict[str, int]]:
    """The names of the Arrow files of one data set, and its class labels. Raises NotTaken."""
    state = _json(intake, by_path[folder + STATE])
    try:
        names = [entry["filename"] for entry in state["_data_files"]]
        if state.get("_indices_files") or not all(isinstance(name, str) for name in names):
            raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        text = f"{printable(folder + STATE)} does not list data files as save_to_disk does."
        place = folder + STATE
        raise intake.judge.fault(Reason.MALFORMED, BrokenSource, place, text) from error
    info = by_path.get(folder + INFO)
    features = _json(intake, info).get("features") if info is not None else None
    return names, class_counts(features)


def _json(intake: Intake, candidate: Candidate) -> dict[str, Any]:
    place = candidate.path
    text = f"{printable(place)} is no JSON object."
    if candidate.size_bytes > _MAX_JSON_BYTES:
        raise intake.judge.fault(Reason.TOO_MUCH, BrokenSource, place, text)
    data = intake.files.read(candidate)
    intake.advance(candidate.size_bytes)
    try:
        found = json.loads(data or b"")
    except (ValueError, RecursionError) as error:
        raise intake.judge.fault(Reason.MALFORMED, BrokenSource, place, text) from error
    if not isinstance(found, dict):
        raise intake.judge.fault(Reason.MALFORMED, BrokenSource, place, text)
    return found


def _parse(side: WorkerSide, *, spec: ImportSpec, classes: dict[str, int]) -> None:
    """In the worker: the rows of one Arrow stream. Raises CannotGoOn and what pyarrow raises."""
    import pyarrow

    be_small()
    try:
        stream = pyarrow.ipc.open_stream(pyarrow.PythonFile(WorkerFile(side), mode="r"))
        columns = pick_columns(spec, stream.schema.names, media=True)
        side.say(f"Columns: {columns.sentence()}.")
        row = 0
        for batch in stream:
            for start in range(0, batch.num_rows, _SLICE_ROWS):
                part = batch.slice(start, _SLICE_ROWS)
                send_batch(side, part, columns, row, classes)
                row += part.num_rows
    except NoSuchColumn as error:
        raise CannotGoOn(Reason.MISSING_COLUMN, error.text) from error
    except pyarrow.ArrowMemoryError as error:
        raise MemoryError from error
    except (pyarrow.ArrowException, OSError) as error:
        raise CannotGoOn(Reason.MALFORMED, f"it is no whole Arrow stream ({type(error).__name__})") from error
