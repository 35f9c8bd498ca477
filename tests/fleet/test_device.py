"""Where ranks are to compute is decided before anything of a run exists."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stoker.cli.run_text import report_text
from stoker.core.events import EventKind, read_events
from stoker.fleet.device import device_environment, device_for, look
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.summary import read_run
from stoker.ledger.records import RunOutcome
from stoker.spec.run import Device, RunSpec
from stoker.train.hardware import DeviceMissing, choose_device
from support.run_house import SPEC, RunHouse, run_house

MANY = 997
"""More ranks than any machine has devices."""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[RunHouse]:
    with run_house(tmp_path / "home") as found:
        yield found


def test_the_program_that_looks_says_what_is_here_or_why_there_is_nothing() -> None:
    found = look(os.environ)
    assert bool(found.found) != bool(found.why_none)
    assert found.torch


def test_a_machine_without_device_files_is_not_asked_and_one_with_them_is(tmp_path: Path) -> None:
    spec = RunSpec(dataset="d")
    without = device_for(spec, {}, tmp_path)
    assert (without.device, "no device files" in without.because) == (Device.CPU, True)
    (tmp_path / "nvidia0").touch()
    assert device_for(spec, os.environ, tmp_path) == choose_device(spec, look(os.environ))


def test_a_look_that_fails_is_told_with_its_last_words() -> None:
    with pytest.raises(DeviceMissing, match="The program that looks for CUDA devices failed: ") as refused:
        look({**os.environ, "PYTHONHOME": "/nowhere", "PYTHONPATH": "/nowhere"})
    assert "hardware_probe" in refused.value.hint


def test_cuda_that_is_not_there_is_refused_before_anything_of_the_run_exists(house: RunHouse) -> None:
    launch = replace(SPEC.launch, device=Device.CUDA, ranks=MANY)
    with pytest.raises(DeviceMissing, match=r"launch\.device is 'cuda', and ") as refused:
        house.start(replace(SPEC, launch=launch, train=replace(SPEC.train, global_batch=MANY)))
    assert "launch.device=cpu" in refused.value.hint
    assert house.actions() == []
    assert not list(house.home.runs_dir.iterdir())


def test_the_job_and_the_events_say_where_ranks_compute(house: RunHouse) -> None:
    summary = house.start(replace(SPEC, launch=replace(SPEC.launch, device=Device.CPU)))
    assert summary.outcome is RunOutcome.FINISHED
    folder = RunFolder.of(house.home.runs_dir, summary.run)
    assert json.loads(folder.job(1).read_text())["device"] == "cpu"
    events = read_events(folder.events).events
    (started,) = [each for each in events if each.kind is EventKind.ATTEMPT_STARTED]
    assert (started.fields["device"], started.fields["device_because"]) == ("cpu", "launch.device is 'cpu'")
    report = read_run(house.home, house.ledger, summary.run)
    assert report.device == "cpu: launch.device is 'cpu'"
    assert re.search(r"^device +cpu: launch\.device is 'cpu'$", report_text(report), re.MULTILINE)


def test_ranks_on_cuda_stay_on_their_node_and_compute_the_same_bits_again() -> None:
    assert device_environment(Device.CPU, bounded=True) == {}
    free = device_environment(Device.CUDA, bounded=False)
    assert free == {
        "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
        "NCCL_SOCKET_IFNAME": "lo",
        "NCCL_IB_DISABLE": "1",
    }
    assert device_environment(Device.CUDA, bounded=True) == {**free, "NCCL_SHM_DISABLE": "1"}
