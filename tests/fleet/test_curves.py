"""A run's figures as others' tools read them."""

from __future__ import annotations

import math
import stat
from pathlib import Path

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stoker.core.canonical import JsonValue
from stoker.core.events import Event, EventKind
from stoker.fleet.curves import Curves, points, prometheus_text, write_curves
from support.run_events import an_event

K = EventKind


def step(number: int, loss: float, **more: JsonValue) -> Event:
    told: dict[str, JsonValue] = {"step": number, "loss": loss, "lr": 0.01, "grad_norm": 1.5, "tokens": 100}
    return an_event(K.STEP, 100.0 + number, rank=0, **{**told, "step_s": 0.5, "data_wait_s": 0.0, **more})


def evaluation(name: str, bits: float) -> Event:
    return an_event(K.EVALUATION, 200.0, rank=0, name=name, bits_per_byte=bits, bytes=10, seconds=1.0)


def read(folder: Path) -> EventAccumulator:
    found = EventAccumulator(str(folder))
    found.Reload()
    return found


def test_tensorboard_reads_every_figure_at_its_step(tmp_path: Path) -> None:
    events = [
        step(1, 3.0, mfu=0.25),
        step(2, 2.5, mfu=0.5, loss_of={"text": 2.0, "code": 3.0}),
        evaluation("model", 1.4),
    ]
    assert write_curves(events, tmp_path / "curves") == 5 + 1 + 5 + 1 + 2 + 1
    found = read(tmp_path / "curves")
    assert [(each.step, each.value) for each in found.Scalars("train/loss")] == [(1, 3.0), (2, 2.5)]
    assert [each.value for each in found.Scalars("speed/mfu")] == [0.25, 0.5]
    assert [(each.step, each.value) for each in found.Scalars("train/loss_of_code")] == [(2, 3.0)]
    (bits,) = found.Scalars("evaluate/model_bits_per_byte")
    assert (bits.step, round(bits.value, 3)) == (2, 1.4)


def test_a_second_supervisor_writes_a_second_file_and_both_are_read(tmp_path: Path) -> None:
    for number in (1, 2):
        curves = Curves(tmp_path)
        curves.take(step(number, 4.0 - number))
        curves.close()
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert len(read(tmp_path).Scalars("train/loss")) == 2


def test_without_figures_there_is_no_file_and_other_ranks_are_not_drawn(tmp_path: Path) -> None:
    others = [
        an_event(K.RANK_STARTED, 1.0, rank=0, pid=1),
        an_event(K.STEP, 2.0, rank=1, **dict(step(1, 3.0).fields)),
    ]
    assert write_curves(others, tmp_path / "curves") == 0
    assert not (tmp_path / "curves").exists()


def test_what_is_no_number_is_left_out_and_nan_is_kept(tmp_path: Path) -> None:
    odd = step(1, math.nan, mfu="high", memory_peak_bytes=True)
    assert {tag for tag, _ in points(odd)} >= {"train/loss"}
    assert not {tag for tag, _ in points(odd)} & {"speed/mfu", "memory/peak_bytes"}
    write_curves([odd], tmp_path)
    assert math.isnan(read(tmp_path).Scalars("train/loss")[0].value)


def test_prometheus_text_has_the_newest_figures_with_their_labels() -> None:
    events = [
        step(1, 3.0),
        step(2, 2.5, loss_of={'a "b"': 2.0}),
        evaluation("zlib-9", 2.0),
        evaluation("model", math.inf),
    ]
    lines = prometheus_text("r-1", events).splitlines()
    assert 'stoker_train_loss{run="r-1",step="2"} 2.5' in lines
    assert 'stoker_train_loss_of_domain{run="r-1",step="2",dataset="a \\"b\\""} 2' in lines
    assert 'stoker_evaluate_bits_per_byte{run="r-1",step="2",name="zlib-9"} 2' in lines
    assert 'stoker_evaluate_bits_per_byte{run="r-1",step="2",name="model"} +Inf' in lines
    types = [line for line in lines if line.startswith("# TYPE ")]
    assert len(types) == len(set(types))
    assert prometheus_text("r-1", []) == ""
