"""Saving and loading a run's whole state: DCP's planning, our parts, the commit log.

See docs/design/train.md.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as distributed
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from stoker.core.canonical import JsonValue
from stoker.core.errors import DiskFull, StokerError
from stoker.core.ids import new_version_id
from stoker.spec.job import CommitRef
from stoker.train.checkpoint_errors import CheckpointFailed, CheckpointUnfit, Fenced
from stoker.train.checkpoint_pieces import Piece, PieceLoadPlanner, PieceSavePlanner, pieces_of
from stoker.train.checkpoint_reader import CheckpointReader
from stoker.train.checkpoint_state import restore_scalars, scalars_of, tensors_of
from stoker.train.checkpoint_writer import CheckpointWriter, Destination
from stoker.train.commit_log import Retention
from stoker.train.commit_record import Commit, Part
from stoker.train.commit_store import CommitLog, Committed, read_commit
from stoker.train.run_objects import RunObjects

MIN_KEPT = 2
"""The supervisor may not have heard of the newest checkpoint yet, so the one before it always stays."""


def save_checkpoint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objects: RunObjects,
    *,
    rank: int,
    log: CommitLog | None,
    attempt: int,
    step: int,
    keep: int,
    keep_every_steps: int = 0,
    extra: Mapping[str, JsonValue],
) -> Committed | None:
    """Save what `model` and `optimizer` hold after `step`; all ranks call it, rank 0 with the `log`.

    `extra` is all else that a resumed run needs; `keep` and `keep_every_steps` are those of Retention.
    Returns, on rank 0, what was committed. On any error the parts are removed, the checkpoints before stay as
    they are, and every rank raises the same error: DiskFull, Fenced, CheckpointUnfit, a key or store error,
    or CheckpointFailed.
    """
    return save_pieces(
        lambda: list(pieces_of(tensors_of(model, optimizer))),
        objects,
        rank=rank,
        log=log,
        attempt=attempt,
        step=step,
        retention=Retention(keep, keep_every_steps),
        extra=lambda: {"optimizer_groups": scalars_of(model, optimizer), **extra},
    )


def save_pieces(
    pieces: Callable[[], Sequence[Piece]],
    objects: RunObjects,
    *,
    rank: int,
    log: CommitLog | None,
    attempt: int,
    step: int,
    retention: Retention,
    extra: Callable[[], Mapping[str, JsonValue]],
    group: distributed.ProcessGroup | None = None,
) -> Committed | None:
    """Save the pieces that each rank of `group` gives, as `save_checkpoint` says.

    `pieces` and `extra` are called while ranks can hear of each other's errors.
    """
    planner = PieceSavePlanner(pieces)
    if log is None:
        with _one_error("saving", step):
            writer = CheckpointWriter(objects, rank)
            save({}, storage_writer=writer, planner=planner, process_group=group)
        return None
    version = new_version_id()
    destination = Destination(objects.prefix_of(log.state.next_sequence, version), version)
    committed: list[Committed] = []
    asked = False

    def commit(place: Destination, parts: tuple[Part, ...], metadata: Mapping[str, JsonValue]) -> None:
        nonlocal asked
        draft = Commit(
            run=objects.run,
            sequence=0,
            previous="",
            attempt=attempt,
            token=log.token,
            step=step,
            prefix=place.prefix,
            version=place.version,
            parts=parts,
            kept=(),
            metadata=metadata,
            extra=extra(),
        )
        asked = True
        committed.append(log.commit(draft, replace(retention, last=max(MIN_KEPT, retention.last))))

    writer = CheckpointWriter(objects, rank, destination=destination, commit=commit)
    try:
        with _one_error("saving", step):
            save({}, storage_writer=writer, planner=planner, process_group=group)
    except BaseException as error:
        # A commit whose answer was lost may stand: its parts are left for a later sweep to judge.
        if not asked or isinstance(error, Fenced | DiskFull):
            with contextlib.suppress(StokerError):
                objects.delete_parts(destination.prefix)
        raise
    return committed[0]


def load_checkpoint(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    objects: RunObjects,
    reference: CommitRef,
    *,
    shape: JsonValue = None,
) -> Commit:
    """Fill `model` and `optimizer` from the checkpoint that the ledger recorded; all ranks call it.

    The world size may differ from the one that saved. `shape`, when given, must be what the saved `extra`
    calls so: two models may have the same tensors and still compute something else. Returns the record,
    whose `extra` the caller needs. Raises BadCommitLog, BadCheckpointPart or a store error naming the object,
    before any tensor of a changed part is used, and CheckpointUnfit when it is of another model.
    """
    with _one_error("loading", reference.step):
        record = read_commit(objects, reference)
        reader = CheckpointReader(objects, record)
        place = objects.record_key(reference.sequence)
        if shape is not None and record.extra.get("shape") != shape:
            raise CheckpointUnfit(
                f"{place} is of a model {record.extra.get('shape')}, this run's is {shape}.",
                hint="Resume with the model and the tokenizer that the run began with.",
            )
        flat = tensors_of(model, optimizer)
        _compare(flat, reader, place)
        pieces = list(pieces_of(flat, most_bytes=1 << 62))
        load({}, storage_reader=reader, planner=PieceLoadPlanner(pieces))
        restore_scalars(model, optimizer, record.extra.get("optimizer_groups"), place)
    return record


def _compare(flat: Mapping[str, torch.Tensor], reader: CheckpointReader, place: str) -> None:
    """Together the ranks must have the tensors that were saved, each as it was saved."""
    saved = reader.tensors
    names = sorted(saved)
    here = torch.tensor([name in flat for name in names], dtype=torch.uint8)
    if distributed.is_initialized():
        if distributed.get_backend() == "nccl":
            here = here.cuda()
        distributed.all_reduce(here, distributed.ReduceOp.MAX)
    odd = sorted(set(flat) - set(saved)) or [
        name for name, is_here in zip(names, here, strict=True) if not is_here
    ]
    if odd:
        where = "only in the checkpoint" if odd[0] in saved else "only in this run"
        raise CheckpointUnfit(f"{place}: {odd[0]!r} is {where}.", hint="The run file names another model.")
    for name, tensor in flat.items():
        there = saved[name]
        if there.size != tensor.shape or there.properties.dtype != tensor.dtype:
            raise CheckpointUnfit(
                f"{place}: {name!r} is {there.properties.dtype} {list(there.size)}, "
                f"this run's is {tensor.dtype} {list(tensor.shape)}.",
                hint="The run file names another model.",
            )


@contextmanager
def _one_error(doing: str, step: int) -> Iterator[None]:
    """DCP brings the errors of all ranks to all ranks; the first of ours among them is the one to raise."""
    try:
        yield
    except CheckpointException as together:
        failures = [together.failures[rank] for rank in sorted(together.failures)]
        for error, _ in failures:
            if isinstance(error, StokerError):
                raise error from None
        error, trace = failures[0]
        rank = min(together.failures)
        where = traceback.format_list(trace)[-1].strip() if trace else "no trace"
        raise CheckpointFailed(
            f"Rank {rank} failed while {doing} the checkpoint of step {step}: "
            f"{type(error).__name__} ({where})."
        ) from error
