"""The examples of a feed outside Stoker's trainer: they run, and each goes on exactly where it stopped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from stoker.feed.feed import Feed
from support.promise_home import PURPOSE, open_promise_home
from support.sealed_dataset import SealedDataset, sealed_dataset
from support.sealed_samples import MemoryKeys

LOOPS = Path(__file__).parents[1] / "examples" / "loops"


@pytest.fixture(scope="module")
def sealed(tmp_path_factory: pytest.TempPathFactory) -> SealedDataset:
    return sealed_dataset(tmp_path_factory.mktemp("store"), MemoryKeys())


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a prepared dataset "text" that the researcher "asker" may use for PURPOSE."""
    place = tmp_path_factory.mktemp("house")
    with open_promise_home(place) as house:
        house.found()
        house.approve(house.bring_letters("letters"))
        house.prepare("text", "letters")
    return place


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    monkeypatch.syspath_prepend(str(LOOPS))
    names = [path.stem for path in LOOPS.glob("*.py")]
    yield lambda name: __import__(name)
    for name in names:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["plain_torch", "lightning_loop"])
def test_a_loop_that_stopped_goes_on_as_if_it_had_not(
    name: str, sealed: SealedDataset, example: Callable[[str], ModuleType], tmp_path: Path
) -> None:
    train = example(name).train

    def losses(steps: int, saved: str) -> list[float]:
        with Feed(sealed.open(), global_batch=8, seed=0) as feed:
            return train(feed, steps, tmp_path / saved)

    whole = losses(12, "whole")
    assert len(whole) == 12
    assert losses(5, "parts") + losses(12, "parts") == whole


def test_a_data_loader_gives_the_feeds_batches_and_its_state_is_exact(
    sealed: SealedDataset, example: Callable[[str], ModuleType]
) -> None:
    with Feed(sealed.open(), global_batch=8, seed=0) as feed:
        expected = torch.stack([next(feed) for _ in range(7)])
    with Feed(sealed.open(), global_batch=8, seed=0) as feed:
        found = list(example("dataloader").feed_loader(feed, 4))
        assert feed.consumed == 4 * 8
        found += list(example("dataloader").feed_loader(feed, 3))
    assert torch.equal(torch.stack(found), expected)


def test_a_data_loaders_worker_is_refused_and_told_why(
    sealed: SealedDataset, example: Callable[[str], ModuleType]
) -> None:
    with Feed(sealed.open(), global_batch=8, seed=0) as feed:
        batches = example("dataloader").FeedBatches(feed, 3)
        with pytest.raises(RuntimeError, match=r"in plain through /dev/shm\. Use num_workers=0"):
            next(iter(DataLoader(batches, batch_size=None, num_workers=1)))
        assert feed.consumed == 0


@pytest.mark.parametrize("name", ["plain_torch", "dataloader", "lightning_loop"])
def test_an_example_opens_a_prepared_dataset_and_runs(name: str, home: Path, tmp_path: Path) -> None:
    more = [] if name == "dataloader" else ["--steps", "3", "--save", str(tmp_path / "saved")]
    done = _run(home, [str(LOOPS / f"{name}.py"), "text", "--purpose", PURPOSE, "--as", "asker", *more])
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    if name == "dataloader":
        assert lines[:3] == ["(8, 33) torch.int64"] * 3
    else:
        assert len(lines) == 3
        assert np.isfinite([float(line) for line in lines]).all()
    with open_promise_home(home) as house:
        act = list(house.ledger.audit.acts(["dataset.open"]))[-1]
        assert (act.actor, act.detail["purpose"]) == ("asker", PURPOSE)


def _run(home: Path, words: list[str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "STOKER_HOME": str(home / "home"), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, *words], env=environment, capture_output=True, text=True, check=False, cwd=home
    )
