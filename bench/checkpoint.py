"""Saving and loading sharded state, sealed, beside a bare write and read of the same bytes and torch's DCP.

Run `python bench/checkpoint.py`, or with `--json` for one object. `--folder FOLDER` is where the files go:
on a file system in memory, such as /dev/shm, what a disk does is no part of the figures. `--cases NAME ...`:
these alone. See docs/design/train.md, "Speed of checkpoints".
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from measuring.command import Size, run
from measuring.figures import Figure, Goal, Measured, at_most, median_of, rate_of, ratio_of, versions_of
from measuring.one_key import OneKey
from measuring.rank_group import on_ranks
from measuring.turns import take_pairs
from stoker.core.clock import SystemClock
from stoker.keys.refs import KekRef
from stoker.store.objects import ObjectStore

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

    from stoker.train.checkpoint_saver import Saved

RUN: Final = "r-0123456789abcdef0123"
KEK: Final = KekRef(f"run/{RUN}", 1)
LAYERS: Final = 8
BLOCK: Final = 1 << 20
"""A bare call's bytes. Larger calls take larger pages of the page cache, which on a virtual machine may have
to be fetched from its host first: 8 MiB a call took 0.4 or 2 seconds for the same 512 MB."""
METHOD: Final = (
    "So many ranks on gloo, one thread each, hold a model of eight equal matrices sharded by FSDP2 and "
    "its AdamW state, all fp32. By the clock on the wall, the slowest rank's, all ranks beginning at one "
    "moment; processor: seconds of all threads of all ranks. Each round has each case right beside its "
    "bare write or read, which goes first in every other round; medians and quartiles of the ratios of "
    "such pairs. raw_write: each rank writes as many bytes from memory into a new file of its own, 1 MiB "
    "a call, and syncs it. save: save_checkpoint, sealed, committed and durable. stall: how long a "
    "background save keeps its caller; whole: until it is committed. raw_read: those "
    "files, read into memory that is there already; load: the whole checkpoint, verified, into model and "
    "optimizer; before both, the files are put out of the page cache, where they are on a disk. dcp: "
    "torch.distributed.checkpoint on the same state, its files synced, not encrypted; its load unpickles. "
    "Before each case everything is synced, and each rank writes two files of as many bytes and "
    "deletes them: so all cases find memory that is there."
)


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of one case: on the wall, the slowest rank's, and of processor time, all ranks together."""

    wall_s: float
    processor_s: float


@dataclass(frozen=True, slots=True)
class Case:
    """What is compared with which bare case."""

    beside: str
    goal: Goal | None = None


CASES: Final = {
    "save": Case("raw_write", at_most(1.15)),
    "stall": Case("raw_write", at_most(0.25)),
    "whole": Case("raw_write"),
    "load": Case("raw_read", at_most(1.1)),
    "dcp_save": Case("raw_write"),
    "dcp_stall": Case("raw_write"),
    "dcp_whole": Case("raw_write"),
    "dcp_load": Case("raw_read"),
}


class Rank:
    """One rank's model, optimizer and files, and the cases."""

    def __init__(self, rank: int, ranks: int, megabytes: int, folder: Path, keys: OneKey) -> None:
        import torch
        import torch.distributed as distributed
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        from stoker.train.checkpoint_saver import BackgroundSaver, SavePlace
        from stoker.train.commit_log import Retention
        from stoker.train.commit_store import CommitLog
        from stoker.train.run_objects import RunObjects

        self.rank, self.ranks = rank, ranks
        rows = max(ranks, megabytes * ranks * 1_000_000 // (3 * 4 * LAYERS * 1024))
        model = torch.nn.Sequential(*(torch.nn.Linear(1024, rows, bias=False) for _ in range(LAYERS)))
        fully_shard(model, mesh=init_device_mesh("cpu", (ranks,)))
        self.model = model
        self.optimizer = torch.optim.AdamW(self.model.parameters(), fused=True)
        for parameter in self.model.parameters():
            parameter.grad = torch.zeros_like(parameter)
        self.optimizer.step()
        local = sum(cast("DTensor", each).to_local().nbytes for each in self.model.parameters())
        self.bytes = 3 * local
        self._plain = memoryview(bytearray(os.urandom(1 << 20) * (self.bytes >> 20)))
        self._target = memoryview(bytearray(self.bytes))
        self._folder = folder
        self._raw = folder / f"raw-{rank}"
        self._warm = folder / f"warm-{rank}"
        self._objects = RunObjects(
            ObjectStore.open((folder / "store").as_uri()), keys, run=RUN, kek=KEK, review_digest=bytes(32)
        )
        self._log = CommitLog.begin(self._objects, 1, None) if rank == 0 else None
        self._saver = BackgroundSaver(
            SavePlace(self._objects, rank, self._log, 1, Retention(1), self._hear, SystemClock())
        )
        self._beside = distributed.new_group(backend="gloo")
        self._step = 0
        self._committed_after_s = 0.0
        self._reference: Any = None

    def together(
        self,
        work: Callable[[], object],
        *,
        before: Callable[[], object] | None = None,
        after: Callable[[], object] | None = None,
    ) -> Took:
        """Time `work` on all ranks, which begin at one moment."""
        import torch
        import torch.distributed as distributed

        if before is not None:
            before()
        os.sync()
        for number in range(2):
            self._write(self._warm.with_suffix(f".{number}"), durable=False)
        for number in range(2):
            self._warm.with_suffix(f".{number}").unlink()
        distributed.barrier()
        began_s, began_processor_s = time.perf_counter(), time.process_time()
        work()
        wall_s = torch.tensor(time.perf_counter() - began_s, dtype=torch.float64)
        processor_s = torch.tensor(time.process_time() - began_processor_s, dtype=torch.float64)
        if after is not None:
            after()
        distributed.all_reduce(wall_s, distributed.ReduceOp.MAX)
        distributed.all_reduce(processor_s, distributed.ReduceOp.SUM)
        return Took(float(wall_s.item()), float(processor_s.item()))

    def raw_write(self) -> Took:
        """A new file; the one before goes afterwards, as checkpoints do."""
        new = self._raw.with_suffix(".new")
        return self.together(partial(self._write, new), after=partial(new.replace, self._raw))

    def _write(self, path: Path, *, durable: bool = True) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        done = 0
        while done < len(self._plain):
            done += os.write(descriptor, self._plain[done : done + BLOCK])
        if durable:
            os.fsync(descriptor)
        os.close(descriptor)

    def raw_read(self) -> Took:
        """The file of `raw_write`."""
        return self.together(self._read, before=partial(forget, [self._raw]))

    def _read(self) -> None:
        descriptor, done = os.open(self._raw, os.O_RDONLY), 0
        while read := os.preadv(descriptor, [self._target[done : done + BLOCK]], done):
            done += read
        os.close(descriptor)

    def save(self) -> Took:
        """A synchronous checkpoint; the ones before are swept outside the time."""
        took = self.together(self._save)
        if self._log is not None:
            self._log.sweep()
        return took

    def _save(self) -> None:
        from stoker.train.checkpoint import save_checkpoint

        self._step += 1
        committed = save_checkpoint(
            self.model,
            self.optimizer,
            self._objects,
            rank=self.rank,
            log=self._log,
            attempt=1,
            step=self._step,
            keep=1,
            extra={},
        )
        self._reference = committed and committed.reference

    def load(self) -> Took:
        """The checkpoint that was saved last."""
        import torch.distributed as distributed

        told = [self._reference]
        distributed.broadcast_object_list(told)
        parts = [] if self.rank else (self._folder / "store").rglob("part-*.stk")
        return self.together(partial(self._load, told[0]), before=partial(forget, parts))

    def _load(self, reference: Any) -> None:
        from stoker.train.checkpoint import load_checkpoint

        load_checkpoint(self.model, self.optimizer, self._objects, reference)

    def _state(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        weights, state = get_state_dict(self.model, self.optimizer)
        return {"model": weights, "optimizer": state}

    def _fresh(self, name: str) -> Path:
        import torch.distributed as distributed

        path = self._folder / name
        distributed.barrier()
        if self.rank == 0:
            shutil.rmtree(path, ignore_errors=True)
        distributed.barrier()
        return path

    def dcp_save(self) -> Took:
        """dcp.save with its own file writer, which syncs."""
        from torch.distributed.checkpoint.state_dict_saver import save

        path = self._fresh("dcp")
        return self.together(lambda: save(self._state(), checkpoint_id=path))

    def dcp_load(self) -> Took:
        """What `dcp_save` saved."""
        from torch.distributed.checkpoint.state_dict import set_state_dict
        from torch.distributed.checkpoint.state_dict_loader import load as dcp_load

        path = self._folder / "dcp"

        def load() -> None:
            state = self._state()
            dcp_load(state, checkpoint_id=path)
            set_state_dict(
                self.model,
                self.optimizer,
                model_state_dict=state["model"],
                optim_state_dict=state["optimizer"],
            )

        return self.together(load, before=partial(forget, [] if self.rank else path.rglob("*.distcp")))

    def _begin_dcp(self, path: Path) -> Future[Any]:
        from torch.distributed.checkpoint.state_dict_saver import async_save

        saving = async_save(self._state(), checkpoint_id=path, process_group=self._beside)
        return cast("Future[Any]", saving)

    def dcp_stall(self) -> Took:
        """How long dcp.async_save keeps its caller."""
        path, futures = self._fresh("dcp-async"), []
        return self.together(lambda: futures.append(self._begin_dcp(path)), after=lambda: futures[0].result())

    def dcp_whole(self) -> Took:
        """Until all that dcp.async_save began is written."""
        path = self._fresh("dcp-async")
        return self.together(lambda: self._begin_dcp(path).result())

    def stall(self) -> Took:
        """How long a save in the background keeps its caller."""
        return self.together(self._begin_save, after=self._end_save)

    def whole(self) -> Took:
        """Until a save in the background is committed; what is older is swept afterwards."""
        import torch
        import torch.distributed as distributed

        took = self.together(self._begin_save, after=self._end_save)
        whole_s = torch.tensor(self._committed_after_s, dtype=torch.float64)
        distributed.broadcast(whole_s, 0)
        return replace(took, wall_s=float(whole_s.item()))

    def _hear(self, saved: Saved) -> None:
        self._committed_after_s = saved.whole_s

    def _begin_save(self) -> None:
        self._step += 1
        self._saver.save(self.model, self.optimizer, self._step, {})

    def _end_save(self) -> None:
        self._saver.wait()
        self._reference = self._saver.newest

    def close(self) -> None:
        """End the thread of the background saver."""
        self._saver.__exit__(None, None, None)


def forget(paths: Iterable[Path]) -> None:
    """Put these files, which are synced, out of the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def one_rank(
    ranks: int, megabytes: int, rounds: int, cases: Sequence[str], folder: Path, keys: OneKey, rank: int
) -> Any:
    """The samples of every case and its bare one, by name, and the bytes of a rank."""
    bench = Rank(rank, ranks, megabytes, folder, keys)
    bench.raw_write()
    for name in ("save", "dcp_save"):
        getattr(bench, name)()
    pairs = {name: (getattr(bench, name), getattr(bench, CASES[name].beside)) for name in cases}
    samples: dict[str, list[tuple[Took, Took]]] = take_pairs(pairs, rounds)
    bench.close()
    return bench.bytes, samples


def measure(folder: Path, cases: Sequence[str], megabytes: int, ranks: int, rounds: int) -> Measured:
    """Seconds and rates, and ratios to the bare write and read."""
    with tempfile.TemporaryDirectory(dir=folder) as inner:
        size, samples = on_ranks(
            ranks, partial(one_rank, ranks, megabytes, rounds, cases, Path(inner), OneKey())
        )
    amount = size * ranks / 1e9
    figures: dict[str, Figure] = {}
    for bare in ("raw_write", "raw_read"):
        walls_s = [
            before.wall_s for name in cases if CASES[name].beside == bare for _, before in samples[name]
        ]
        if not walls_s:
            continue
        figures[f"{bare}_s"] = median_of(walls_s, "s")
        figures[f"{bare}_rate"] = rate_of(amount, walls_s, "GB/s")
    for name in cases:
        case = CASES[name]
        took, before = zip(*samples[name], strict=True)
        figures[f"{name}_s"] = median_of([each.wall_s for each in took], "s")
        figures[f"{name}_to_{case.beside}"] = ratio_of(
            [each.wall_s for each in took], [each.wall_s for each in before], case.goal
        )
        if name in ("save", "load", "dcp_save", "dcp_load"):  # the others' threads go on beside the caller
            figures[f"{name}_processor_to_{case.beside}"] = ratio_of(
                [each.processor_s for each in took], [each.processor_s for each in before]
            )
    facts = {"bytes": size * ranks, "file_system": file_system(folder)}
    return Measured(figures, METHOD, versions_of("torch", "cryptography"), facts)


def file_system(folder: Path) -> str:
    """The type of the file system that holds `folder`, such as ext4 or tmpfs."""
    try:
        mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    except OSError:
        return "unknown"
    here = folder.resolve()
    holding = [(len(place), kind) for _, place, kind, *_ in mounts if here.is_relative_to(place)]
    return max(holding, default=(0, "unknown"))[1]


SIZES: Final = (
    Size("megabytes", 512, 8, "megabytes of state on each rank"),
    Size("ranks", 2, 1, "ranks"),
    Size("rounds", 7, 1, "rounds of all cases"),
)


def main() -> int:
    """Read `--folder` and `--cases`; the rest is every bench's command line."""
    options = argparse.ArgumentParser(add_help=False)
    options.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    options.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    chosen, rest = options.parse_known_args()
    sys.argv[1:] = rest
    return run("checkpoint", __doc__, SIZES, partial(measure, chosen.folder, chosen.cases))


if __name__ == "__main__":
    sys.exit(main())
