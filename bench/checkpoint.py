"""Saving and loading sharded state, sealed, beside a bare write and read of the same bytes and torch's DCP.

Run `python bench/checkpoint.py`, or with `--json` for one object. See docs/design/train.md, "Speed".
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from measuring.command import Size, run
from measuring.figures import Figure, Measured, at_most, median_of, rate_of, ratio_of, versions_of
from measuring.one_key import OneKey
from measuring.rank_group import on_ranks
from measuring.turns import Probe, take_turns, wall_s
from stoker.core.clock import SystemClock
from stoker.keys.refs import KekRef
from stoker.store.objects import ObjectStore

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

RUN: Final = "r-0123456789abcdef0123"
KEK: Final = KekRef(f"run/{RUN}", 1)
LAYERS: Final = 8
BLOCK: Final = 8 << 20
SETTLE_S: Final = 2.0
"""Before each case the disk is left alone: many do better after a rest than after much was written."""
METHOD: Final = (
    "So many ranks on gloo, one thread each, hold a model of eight equal matrices sharded by FSDP2 and its "
    "AdamW state, all fp32. By the clock on the wall, the slowest rank's, all ranks beginning at one moment. "
    "raw_write: each rank writes as many bytes from memory into a file of its own, 8 MiB a call, and syncs "
    "it. save: save_checkpoint, sealed, committed and durable. stall: how long a background save keeps its "
    "caller; whole: until it is committed, the caller idle. raw_read: those files, read into memory that is "
    "there already; load: the whole checkpoint, verified, into model and optimizer; before both, the files "
    "are put out of the page cache. dcp: torch.distributed.checkpoint on the same state, its files synced, "
    "not encrypted; its load unpickles. Before each case the disk has two seconds of rest. Everything "
    "takes turns in rotating order; medians and quartiles; ratios are taken in each round."
)


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
        self._objects = RunObjects(
            ObjectStore.open((folder / "store").as_uri()), keys, run=RUN, kek=KEK, review_digest=bytes(32)
        )
        self._log = CommitLog.begin(self._objects, 1, None) if rank == 0 else None
        self._saver = BackgroundSaver(
            SavePlace(self._objects, rank, self._log, 1, Retention(1), lambda saved: None, SystemClock())
        )
        self._beside = distributed.new_group(backend="gloo")
        self._step = 0
        self._reference: Any = None

    def together(self, work: Callable[[], object], *, before: Callable[[], object] | None = None) -> float:
        """Seconds of the slowest rank, all beginning at one moment."""
        import torch
        import torch.distributed as distributed

        if before is not None:
            before()
        os.sync()
        time.sleep(SETTLE_S)
        distributed.barrier()
        took = torch.tensor(wall_s(work), dtype=torch.float64)
        distributed.all_reduce(took, distributed.ReduceOp.MAX)
        return float(took.item())

    def raw_write(self) -> float:
        """A new file."""
        self._raw.unlink(missing_ok=True)
        return self.together(self._write)

    def _write(self) -> None:
        descriptor = os.open(self._raw, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        done = 0
        while done < len(self._plain):
            done += os.write(descriptor, self._plain[done : done + BLOCK])
        os.fsync(descriptor)
        os.close(descriptor)

    def raw_read(self) -> float:
        """The file of `raw_write`."""
        return self.together(self._read, before=partial(forget, [self._raw]))

    def _read(self) -> None:
        descriptor, done = os.open(self._raw, os.O_RDONLY), 0
        while read := os.preadv(descriptor, [self._target[done : done + BLOCK]], done):
            done += read
        os.close(descriptor)

    def save(self) -> float:
        """A synchronous checkpoint; the ones before are swept outside the time."""
        took_s = self.together(self._save)
        if self._log is not None:
            self._log.sweep()
        return took_s

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

    def load(self) -> float:
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

    def dcp_save(self) -> float:
        """dcp.save with its own file writer, which syncs."""
        from torch.distributed.checkpoint.state_dict_saver import save

        path = self._fresh("dcp")
        return self.together(lambda: save(self._state(), checkpoint_id=path))

    def dcp_load(self) -> float:
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

    def dcp_stall(self) -> float:
        """How long dcp.async_save keeps its caller."""
        from torch.distributed.checkpoint.state_dict_saver import async_save

        path, futures = self._fresh("dcp-async"), []

        def begin() -> None:
            saving = async_save(self._state(), checkpoint_id=path, process_group=self._beside)
            futures.append(cast("Future[Any]", saving))

        began_s = time.perf_counter()
        took_s = self.together(begin)
        futures[0].result()
        self.dcp_whole_s = time.perf_counter() - began_s
        return took_s

    def stall(self) -> float:
        """How long a save in the background keeps its caller."""
        self._step += 1
        began_s = time.perf_counter()
        took_s = self.together(partial(self._saver.save, self.model, self.optimizer, self._step, {}))
        self._saver.wait()
        self._reference = self._saver.newest
        self.whole_s = time.perf_counter() - began_s
        return took_s

    def close(self) -> None:
        """End the thread of the background saver."""
        self._saver.__exit__(None, None, None)


def forget(paths: Iterable[Path]) -> None:
    """Put these files, which are synced, out of the page cache."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def one_rank(ranks: int, megabytes: int, rounds: int, folder: Path, keys: OneKey, rank: int) -> Any:
    """The samples of every case, by name, and the bytes of a rank."""
    bench = Rank(rank, ranks, megabytes, folder, keys)
    bench.raw_write()
    bench.save()
    bench.dcp_save()
    bench.stall()
    bench.dcp_stall()
    probes: dict[str, Probe] = {
        "raw_write": bench.raw_write,
        "raw_read": bench.raw_read,
        "save": bench.save,
        "load": bench.load,
        "dcp_save": bench.dcp_save,
        "dcp_load": bench.dcp_load,
        "stall": bench.stall,
        "whole": lambda: bench.whole_s,
        "dcp_stall": bench.dcp_stall,
        "dcp_whole": lambda: bench.dcp_whole_s,
    }
    samples = take_turns(probes, rounds)
    bench.close()
    return bench.bytes, samples


def measure(megabytes: int, ranks: int, rounds: int) -> Measured:
    """Rates, and ratios to the bare write and read."""
    with tempfile.TemporaryDirectory() as folder:
        size, seconds = on_ranks(ranks, partial(one_rank, ranks, megabytes, rounds, Path(folder), OneKey()))
    amount = size * ranks / 1e9
    figures: dict[str, Figure] = {}
    for name in seconds:
        figures[f"{name}_s"] = median_of(seconds[name], "s")
        figures[f"{name}_rate"] = rate_of(amount, seconds[name], "GB/s")
    for name, raw, goal in (
        ("save", "raw_write", at_most(1.15)),
        ("stall", "raw_write", at_most(0.25)),
        ("whole", "raw_write", None),
        ("load", "raw_read", at_most(1.1)),
        ("dcp_save", "raw_write", None),
        ("dcp_stall", "raw_write", None),
        ("dcp_whole", "raw_write", None),
        ("dcp_load", "raw_read", None),
    ):
        figures[f"{name}_to_{raw}"] = ratio_of(seconds[name], seconds[raw], goal)
    return Measured(figures, METHOD, versions_of("torch", "cryptography"), {"bytes": size * ranks})


SIZES: Final = (
    Size("megabytes", 512, 8, "megabytes of state on each rank"),
    Size("ranks", 2, 1, "ranks"),
    Size("rounds", 5, 1, "rounds of all cases"),
)

if __name__ == "__main__":
    sys.exit(run("checkpoint", __doc__, SIZES, measure))
