"""A run's figures in other tools' forms: TensorBoard's, Prometheus'. See docs/design/watch.md, "Curves".

Written from the events that ranks tell, in the supervisor's process, so ranks need no place to write to.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from stoker.core.atomic import naming_full_disk
from stoker.core.canonical import JsonValue
from stoker.core.events import Event, EventKind

TAGS: Final[Mapping[EventKind, Mapping[str, str]]] = {
    EventKind.STEP: {
        "loss": "train/loss",
        "grad_norm": "train/gradient_norm",
        "lr": "train/learning_rate",
        "tokens_per_s": "speed/tokens_per_s",
        "samples_per_s": "speed/samples_per_s",
        "mfu": "speed/mfu",
        "hfu": "speed/hfu",
        "step_s": "time/step_s",
        "data_wait_s": "time/data_wait_s",
        "compute_s": "time/compute_s",
        "optimizer_s": "time/optimizer_s",
        "memory_peak_bytes": "memory/peak_bytes",
    },
    EventKind.CHECKPOINT_COMMITTED: {"stall_s": "checkpoint/stall_s", "bytes": "checkpoint/bytes"},
    EventKind.BATCH_SKIPPED: {"loss": "watch/loss_of_skipped_batch"},
    EventKind.ROLLED_BACK: {"to_step": "watch/rolled_back_to"},
}
"""Which fields of which events are drawn, and as what; all but losses by domain and evaluations."""

LOSS_OF: Final = "loss_of"
"""A step's field with the mean loss of each part of a mixture, by dataset."""


def points(event: Event) -> Iterator[tuple[str, float]]:
    """Tag and value of every figure in an event that rank 0 told; what is no number is left out."""
    if event.rank != 0:
        return
    for name, tag in TAGS.get(event.kind, {}).items():
        yield from _point(tag, event.fields.get(name))
    if event.kind is EventKind.EVALUATION:
        yield from _point(f"evaluate/{event.text('name')}_bits_per_byte", event.fields.get("bits_per_byte"))
    if event.kind is EventKind.FIGURE:
        yield from _point(f"evaluate/{event.text('name')}", event.fields.get("value"))
    losses = event.fields.get(LOSS_OF) if event.kind is EventKind.STEP else None
    if isinstance(losses, Mapping):
        for name, value in losses.items():
            yield from _point(f"train/loss_of_{name}", value)


def _point(tag: str, value: JsonValue) -> Iterator[tuple[str, float]]:
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield tag, float(value)


class Curves:
    """Appends to one new event file in `folder`, which is made when the first figure comes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None
        self._step = 0

    def take(self, event: Event) -> None:
        """Write what is drawn of an event. Raises DiskFull."""
        found = list(points(event))
        if not found:
            return
        step = event.fields.get("step")
        if isinstance(step, int):
            self._step = step
        with naming_full_disk(self._folder):
            self._open(event.ts)
            self._write(event.ts, found)
            self._writer.flush()

    def close(self) -> None:
        """The file is whole; nothing when there was no figure. Raises DiskFull."""
        writer, self._writer = self._writer, None
        if writer is not None:
            with naming_full_disk(self._folder):
                writer.close()

    def _open(self, now_s: float) -> None:
        if self._writer is not None:
            return
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # TensorBoard reads a folder's files in the order of their names.
        number = next(number for number in itertools.count() if not self._path(now_s, number).exists())
        file = os.open(self._path(now_s, number), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._writer = RecordWriter(os.fdopen(file, "wb"))
        self._writer.write(Record(wall_time=now_s, file_version="brain.Event:2").SerializeToString())

    def _path(self, now_s: float, number: int) -> Path:
        return self._folder / f"events.out.tfevents.{int(now_s):010d}.{number:03d}"

    def _write(self, now_s: float, found: Iterable[tuple[str, float]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event as Record
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in found]
        record = Record(wall_time=now_s, step=self._step, summary=Summary(value=values))
        self._writer.write(record.SerializeToString())


def write_curves(events: Iterable[Event], folder: Path) -> int:
    """Event files of a whole run; how many figures they have."""
    curves, count = Curves(folder), 0
    for event in events:
        count += sum(1 for _ in points(event))
        curves.take(event)
    curves.close()
    return count


def prometheus_text(run: str, events: Iterable[Event]) -> str:
    """The newest figures in Prometheus' text format 0.0.4, each labelled with the run.

    Names are `stoker_` and the tag with `_`; of an evaluation or a loss by domain, the rest is a label.
    """
    newest: dict[str, tuple[float, int]] = {}
    step = 0
    for event in events:
        told = event.fields.get("step")
        step = told if isinstance(told, int) else step
        for tag, value in points(event):
            newest[tag] = (value, step)
    families: dict[str, list[str]] = {}
    for tag, (value, at) in sorted(newest.items()):
        name, label = _family(tag)
        labels = "".join(f',{key}="{label_text(text)}"' for key, text in label.items())
        families.setdefault(name, []).append(
            f'{name}{{run="{label_text(run)}",step="{at}"{labels}}} {_number(value)}'
        )
    lines = [line for name, rows in families.items() for line in (f"# TYPE {name} gauge", *rows)]
    return "\n".join(lines) + "\n" if lines else ""


def _family(tag: str) -> tuple[str, dict[str, str]]:
    if tag.startswith("evaluate/") and not tag.endswith("_bits_per_byte"):
        return "stoker_evaluate", {"name": tag.removeprefix("evaluate/")}
    if tag.startswith("evaluate/"):
        return "stoker_evaluate_bits_per_byte", {
            "name": tag.removeprefix("evaluate/").removesuffix("_bits_per_byte")
        }
    if tag.startswith("train/loss_of_"):
        return "stoker_train_loss_of_domain", {"dataset": tag.removeprefix("train/loss_of_")}
    return "stoker_" + tag.replace("/", "_"), {}


def label_text(text: str) -> str:
    """A text as the value of a label."""
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return f"{value:.10g}" if math.isfinite(value) else ("+Inf" if value > 0 else "-Inf")
