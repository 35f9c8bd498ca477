"""`python -m stoker.train.worker --job PATH --rank R`: one rank, as a launcher starts it.

Secrets come over the inherited key socket and nothing else; events go over the inherited event descriptor.
The process ends at once on SIGTERM: all that matters is in the store by then. See docs/design/train.md.
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from stoker.keys.memory import harden_process
from stoker.train.host_memory import keep_freed_memory

if TYPE_CHECKING:
    from stoker.core.errors import StokerError
    from stoker.keys.agent_client import AgentKeySource
    from stoker.spec.job import Job
    from stoker.train.telemetry import Telemetry

EVENT_FD: Final = "STOKER_EVENT_FD"
KEY_FD: Final = "STOKER_KEY_FD"
LOCAL_RANK: Final = "LOCAL_RANK"
"""The variable with this rank's number on its node, which libraries know by this name."""

MAX_JOB_BYTES: Final = 1024 * 1024
CACHE_BYTES: Final = 64 << 30
COLLECTIVE_TIMEOUT: Final = timedelta(minutes=30)
"""Longer than any wait that is right; a hang is noticed by the supervisor, from heartbeats, far sooner."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one rank to its end; its exit code. Errors have been told by then."""
    harden_process()
    keep_freed_memory()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    from stoker.core.errors import EXIT_DONE, EXIT_FINDING, StokerError
    from stoker.core.gates import GATE_FD_NAME, STACK_FD_NAME
    from stoker.train.ahead import tell_stacks_into, wait_at_gate

    parser = argparse.ArgumentParser(prog="python -m stoker.train.worker", description=__doc__)
    parser.add_argument("--job", type=Path, required=True, help="the attempt's job file")
    parser.add_argument("--rank", type=int, required=True, help="this process's rank")
    words = parser.parse_args(arguments)
    telemetry: Telemetry | None = None
    try:
        if STACK_FD_NAME in os.environ:
            tell_stacks_into(inherited(STACK_FD_NAME, os.environ))
        rank: int | None = words.rank
        if GATE_FD_NAME in os.environ:
            rank = wait_at_gate(inherited(GATE_FD_NAME, os.environ))
        if rank is None:
            return EXIT_DONE
        job = read_job(words.job, rank)
        telemetry = _telemetry(job, rank, os.environ)
        _work(job, rank, telemetry, os.environ)
    except StokerError as error:
        return _tell(error, telemetry)
    except BaseException as error:  # noqa: BLE001 - the top of a process
        known = _peer_lost(error)
        if known is not None:
            return _tell(known, telemetry)
        trace = "".join(traceback.format_tb(error.__traceback__))
        # Only the text of errors that are about this machine: others may quote what they were given.
        about = f": {error}"[:500] if isinstance(error, OSError | RuntimeError | ImportError) else ""
        print(f"{trace}{type(error).__name__}{about}", file=sys.stderr)
        if telemetry is not None:
            _ignoring_loss(partial(telemetry.report_unknown, error, trace))
        return EXIT_FINDING
    return EXIT_DONE


def read_job(path: Path, rank: int) -> Job:
    """The job file, checked. Raises BadJob, naming the file, and ConfigError with every mistake in it."""
    from stoker.core.config import from_plain
    from stoker.spec.job import Job
    from stoker.train.checkpoint_errors import BadJob

    try:
        with path.open("rb") as file:
            data = file.read(MAX_JOB_BYTES + 1)
        if len(data) > MAX_JOB_BYTES:
            raise BadJob(f"{path} is larger than {MAX_JOB_BYTES} bytes, so it is no job file.")
        body = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise BadJob(f"{path} cannot be read as a job: {error}.", hint="A launcher writes it.") from error
    if not isinstance(body, dict):
        raise BadJob(f"{path} is no JSON object, so it is no job.", hint="A launcher writes it.")
    job = from_plain(Job, body, str(path))
    if not 0 <= rank < job.world_size:
        raise BadJob(f"Rank {rank} is outside the world of {job.world_size} that {path} names.")
    return job


def _telemetry(job: Job, rank: int, environment: Mapping[str, str]) -> Telemetry:
    from stoker.core.clock import SystemClock
    from stoker.core.events import EventKind
    from stoker.train.telemetry import Telemetry

    descriptor = inherited(EVENT_FD, environment)
    telemetry = Telemetry(
        descriptor, run=job.run, attempt=job.attempt, rank=rank, node=job.node, clock=SystemClock()
    )
    telemetry.emit(EventKind.RANK_STARTED, pid=os.getpid())
    return telemetry


def inherited(name: str, environment: Mapping[str, str]) -> int:
    """The open descriptor whose number the variable `name` gives; no child of ours inherits it further."""
    from stoker.train.checkpoint_errors import BadJob

    text = environment.get(name, "")
    try:
        descriptor = int(text)
        os.set_inheritable(descriptor, False)
    except (ValueError, OSError, OverflowError) as error:
        raise BadJob(
            f"{name} is {text[:40]!a}, which is no open descriptor.",
            hint="Ranks are started by a launcher; to train, use `stoker train`.",
        ) from error
    return descriptor


def _work(job: Job, rank: int, telemetry: Telemetry, environment: Mapping[str, str]) -> None:
    from stoker.core.clock import SystemClock
    from stoker.keys.agent_client import AgentKeySource
    from stoker.keys.caller import SECRET_FD_NAME, take_secret
    from stoker.keys.lease_page import LEASE_FD_NAME, LeaseView
    from stoker.train.checkpoint_errors import BadJob

    with ExitStack() as stack:
        stack.enter_context(telemetry.beating(_end_unwatched))
        descriptor = inherited(KEY_FD, environment)
        try:
            key_socket = socket.socket(fileno=descriptor)
        except OSError as error:
            raise BadJob(f"{KEY_FD} is {descriptor}, which is no socket.") from error
        stack.enter_context(key_socket)
        secret = take_secret(inherited(SECRET_FD_NAME, environment))
        page = LEASE_FD_NAME in environment
        lease = LeaseView(inherited(LEASE_FD_NAME, environment)) if page else None
        keys = AgentKeySource(key_socket, secret, lease)
        stack.callback(keys.close)

        # From here on torch is loaded; that takes seconds, and the heart beats already.
        import torch.distributed as distributed

        from stoker.feed.dataset import Dataset
        from stoker.feed.mixture import MixturePart
        from stoker.keys.refs import KekRef
        from stoker.store.cache import NodeCache
        from stoker.store.handed import handed_store
        from stoker.store.objects import ObjectStore
        from stoker.train.attempt import run_attempt
        from stoker.train.device import BACKENDS, take_device
        from stoker.train.rank_place import RankPlace, leave_process_group
        from stoker.train.records_task import records_of
        from stoker.train.run_objects import RunObjects
        from stoker.train.save_ask import SaveAsk

        store = handed_store(environment) or ObjectStore.open(job.store_url)
        review_digest = bytes.fromhex(job.review_digest)
        cache = NodeCache(Path(job.cache_folder), store, CACHE_BYTES)

        def opened(name: str, version: str, root: str, review_digest: str) -> Dataset:
            return Dataset.open(
                store,
                cache,
                name=name,
                version=version,
                root=root,
                public_key=bytes.fromhex(job.dataset_public_key),
                keys=keys,
                review_digest=bytes.fromhex(review_digest),
            )

        dataset = opened(job.dataset, job.dataset_version, job.dataset_root, job.review_digest)
        parts = [
            MixturePart(
                opened(part.dataset, part.dataset_version, part.dataset_root, part.review_digest), part.weight
            )
            for part in job.parts
        ]
        # Decoders are forked here: before any key is opened and any thread of a collective begun.
        records = job.spec.trained is not job.spec.model
        data = stack.enter_context(records_of(job.spec, dataset)) if records else dataset.tokens()
        objects = stack.enter_context(
            RunObjects(
                store,
                keys,
                run=job.run,
                kek=KekRef.parse(job.checkpoint_kek),
                review_digest=review_digest,
            )
        )
        device = take_device(job.device, local_rank(rank, environment))  # after the fork: none has CUDA open
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        distributed.init_process_group(
            BACKENDS[job.device],
            store=_meeting_place(job, keys),
            rank=rank,
            world_size=job.world_size,
            timeout=COLLECTIVE_TIMEOUT,
        )
        run_attempt(
            job,
            RankPlace(rank, job.world_size, device),
            objects=objects,
            dataset=data,
            parts=parts,
            telemetry=telemetry,
            clock=SystemClock(),
            asked=SaveAsk(),
        )
        # Nobody leaves while another may still wait for him in a collective.
        distributed.barrier()
        leave_process_group()


def local_rank(rank: int, environment: Mapping[str, str]) -> int:
    """Which of its node's ranks this is, as the agent says; on one node its number in the world."""
    from stoker.train.checkpoint_errors import BadJob

    text = environment.get(LOCAL_RANK, str(rank))
    if not text.isdecimal() or not 0 <= int(text) <= rank:
        raise BadJob(f"{LOCAL_RANK} is {text[:40]!a}, which cannot be the place of rank {rank} on its node.")
    return int(text)


def _meeting_place(job: Job, keys: AgentKeySource) -> Any:
    """Where the ranks of this attempt find one another: under a name that only they can compute.

    The key agent tells the secret to the processes that were started for this attempt, so nobody else who
    can reach the place can answer in a rank's stead.
    """
    import torch.distributed as distributed

    with keys.rendezvous_secret() as secret:
        name = hmac.digest(secret.view(), b"stoker rendezvous 1", "sha256").hex()
    place = distributed.FileStore(job.rendezvous, job.world_size)  # type: ignore[attr-defined]  # not listed
    return distributed.PrefixStore(name, place)  # type: ignore[attr-defined]


def _peer_lost(error: BaseException) -> StokerError | None:
    """PeerLost, when `error` is a collective's failure; torch raises plain RuntimeErrors for those."""
    from stoker.train.checkpoint_errors import PeerLost

    module = sys.modules.get("torch.distributed")
    if not isinstance(error, RuntimeError) or module is None:
        return None
    text = str(error)
    known = ("gloo", "NCCL", "closed by peer")
    if not isinstance(error, module.DistError) and not any(each in text for each in known):
        return None
    return PeerLost(
        "A collective failed, most likely because another rank has ended.",
        hint="Look at the other ranks' events for the first error. The supervisor starts the run again.",
    )


def _tell(error: StokerError, telemetry: Telemetry | None) -> int:
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    if telemetry is not None:
        _ignoring_loss(partial(telemetry.report, error))
    return error.exit_code


def _ignoring_loss(tell: Callable[[], None]) -> None:
    from stoker.train.checkpoint_errors import TelemetryLost

    try:
        tell()
    except TelemetryLost as lost:
        print(f"error: {lost.message}", file=sys.stderr)


def _end_unwatched(error: StokerError) -> None:
    """Called from the beating thread: the main thread may be waiting for a peer for ever."""
    print(f"error: {error.message}", file=sys.stderr, flush=True)
    os._exit(error.exit_code)


def _leave(code: int) -> NoReturn:
    """End without the interpreter's tear-down, which would wait for torch's threads and peers."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    _leave(main())
