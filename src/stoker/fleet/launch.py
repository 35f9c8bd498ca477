"""Starting a run and going on with one: permission, keys, records, then the supervisor.

What is written down of it is run_acts.py. See docs/design/fleet.md, "Starting and going on".
"""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from stoker.core.atomic import exclusive
from stoker.core.clock import Clock
from stoker.core.config import from_plain
from stoker.core.errors import Busy, StokerError
from stoker.core.events import Event, read_events
from stoker.core.home import Home
from stoker.core.ids import RunId, new_run_id
from stoker.core.progress import Progress
from stoker.fleet.attempt import rank_environment
from stoker.fleet.attempt_lock import held_lock
from stoker.fleet.attribution import Attribution
from stoker.fleet.charge import Charge
from stoker.fleet.confinement import Confinement, confinement_of, hand_of
from stoker.fleet.crash_loop import failures_in_row
from stoker.fleet.device import device_environment, device_for
from stoker.fleet.errands import WORKER, HouseErrands, require_leave, require_live
from stoker.fleet.errors import CrashLoop, DatasetGone, NotResumable
from stoker.fleet.failure_history import believed_rate
from stoker.fleet.faults import Fault
from stoker.fleet.first_weights import digest_on_record, with_first_weights
from stoker.fleet.left_open import left_open
from stoker.fleet.links import Link, links_of
from stoker.fleet.on_record import OnRecord, on_record_of
from stoker.fleet.places import Room, one_node
from stoker.fleet.run_acts import House, begin_run, recording, reopen_run
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.run_state import Policy
from stoker.fleet.second_level import second_level
from stoker.fleet.slurm.earlier_lives import note_earlier_lives
from stoker.fleet.slurm.job_folder import JobFolder
from stoker.fleet.slurm.launcher import SlurmLauncher
from stoker.fleet.spread.reach import Reach, reach_of
from stoker.fleet.spread.spread_attempt import Site
from stoker.fleet.summary import RunSummary, read_run, summarise, supervisor_lock
from stoker.fleet.supervisor import Supervisor
from stoker.fleet.taxonomy import RETRIED, SYMPTOM_CODES
from stoker.fleet.wandb_log import wandb_run
from stoker.fleet.witnesses import witnesses_here
from stoker.intake.review_request import review_digest
from stoker.keys.backend import KeyBackend
from stoker.keys.memory import harden_process
from stoker.keys.refs import KekRef
from stoker.keys.rotation import sealing_kek
from stoker.ledger.ledger import Ledger
from stoker.ledger.records import DatasetRecord, DatasetState, RunOutcome, RunRecord
from stoker.spec.job import Job, JobPart
from stoker.spec.reliability import RSC_1_PER_1000_NODE_DAYS, FailureRate
from stoker.spec.run import CheckpointEvery, LaunchSpec, RunSpec
from stoker.train.hardware import ChosenDevice

EARLIER_ATTEMPT_S: Final = 15.0
"""How long a run that goes on waits for processes of its killed supervisor to end."""

RETRY_CODES: Final = RETRIED
"""Known errors after which another attempt may go well; every other known error ends the run."""


def start_run(
    spec: RunSpec,
    *,
    home: Home,
    ledger: Ledger,
    backend: KeyBackend,
    store_url: str,
    actor: str,
    progress: Progress,
    clock: Clock,
    faults: Sequence[Fault] = (),
    origins: Mapping[str, str] | None = None,
    rank_command: Sequence[str] = WORKER,
    failures_per_1000_node_days: float = RSC_1_PER_1000_NODE_DAYS,
    reach: Reach | None = None,
) -> RunSummary:
    """Train `spec` to its end; returns when no process of the run exists any more.

    A run that fails or is cancelled is a summary, not an exception. `origins` says where each value of the
    merged run file came from; `reach` how other nodes are reached, by default those of the Slurm job that
    this process is in. Raises UnknownDataset, DatasetGone, intake's refusals, BadWeights and
    WeightsUnfit for first weights from elsewhere, DeviceMissing, PrecisionUnsupported, LedgerRefused, Busy,
    DiskFull; nothing of the run is left behind when it could not begin.
    """
    house = House(home, ledger, backend, store_url, actor, progress, clock, failures_per_1000_node_days)
    site = site_of(spec.launch, home, reach)
    held = confinement_of(spec.launch, store_url, home.cache_dir, spread=site is not None)
    datasets = tuple(live_dataset(ledger, name, clock) for name in spec.datasets)
    links = links_of(store_url, spec.launch.links, os.environ, spread=site is not None)
    require_leave(ledger, datasets, spec.purpose, clock, run=spec.name, links=links)
    require_layout(spec, datasets)
    device = device_for(spec, rank_environment(os.environ, spec.launch.threads_per_rank))
    spec, first_weights = with_first_weights(spec, datasets)
    run = new_run_id(clock)
    with exclusive(supervisor_lock(home, run), f"run {run}"):  # before the record, so that gc sees it live
        record = begin_run(house, run, spec, datasets, origins or {}, first_weights)
        return _supervise(house, record, spec, datasets, faults, held, device, rank_command, site, links)


def resume_run(
    run_id: RunId,
    *,
    home: Home,
    ledger: Ledger,
    backend: KeyBackend,
    store_url: str,
    actor: str,
    progress: Progress,
    clock: Clock,
    faults: Sequence[Fault] = (),
    rank_command: Sequence[str] = WORKER,
    failures_per_1000_node_days: float = RSC_1_PER_1000_NODE_DAYS,
    forgive: bool = False,
    reach: Reach | None = None,
) -> RunSummary:
    """Go on with a run that was cancelled, failed, or lost its supervisor, from its last recorded checkpoint.

    Its restart budget is whole again; failures in a row go on counting, unless they are to be forgiven.
    Raises UnknownRun, NotResumable, CrashLoop, and what `start_run` raises.
    """
    house = House(home, ledger, backend, store_url, actor, progress, clock, failures_per_1000_node_days)
    record = ledger.catalogue.run(run_id)
    if record.outcome is RunOutcome.FINISHED:
        raise NotResumable(f"Run {run_id} is finished.", hint="Start a new run with `stoker train`.")
    if not RunFolder.of(home.runs_dir, run_id).run_file.exists():
        raise NotResumable(
            f"The folder of run {run_id} is not in {home.runs_dir}.",
            hint="Go on where it was started, or restore its folder.",
        )
    spec = from_plain(RunSpec, dict(record.spec), f"the ledger's record of run {run_id}")
    path = RunFolder.of(home.runs_dir, run_id).events
    told = read_events(path).events if path.exists() else ()
    failures = 0 if forgive else _failures_in_row(run_id, told, spec.launch, clock)
    site = site_of(spec.launch, home, reach)
    note_earlier_lives(JobFolder.of(home.runs_dir, run_id), os.environ, SlurmLauncher(clock).events)
    said = _on_record(house, run_id, site).lines(clock.now_s())
    resumed = _Resumed(failures, forgive, left_open(told, _here(site), clock.monotonic_s(), said))
    held = confinement_of(spec.launch, store_url, home.cache_dir, spread=site is not None)
    datasets = _datasets_of(ledger, record, spec)
    links = links_of(store_url, spec.launch.links, os.environ, spread=site is not None)
    require_leave(ledger, datasets, spec.purpose, clock, run=spec.name, links=links)
    device = device_for(spec, rank_environment(os.environ, spec.launch.threads_per_rank))
    with exclusive(supervisor_lock(home, run_id), f"run {run_id}"):
        return _supervise(
            house, record, spec, datasets, faults, held, device, rank_command, site, links, resumed=resumed
        )


@dataclass(frozen=True, slots=True)
class _Resumed:
    """What a run that goes on brings along."""

    failures_in_row: int
    forgiven: bool
    left_open: Attribution | None


def _failures_in_row(run: RunId, events: Sequence[Event], launch: LaunchSpec, clock: Clock) -> int:
    """How often the run has failed lately without getting further. Raises CrashLoop when too often."""
    found = failures_in_row(events, clock.now_s(), launch.failures_within_s)
    if found >= launch.failures_in_row:
        raise CrashLoop(
            f"Run {run} failed {found} times in a row without getting further than its last checkpoint.",
            hint=f"Look at `stoker run show {run}`, mend the cause, then: stoker run resume {run} --forgive",
        )
    return found


def require_layout(spec: RunSpec, datasets: Sequence[DatasetRecord]) -> None:
    """Raise InvalidLayout unless the layout fits the model on these datasets' vocabulary and sequences."""
    for vocabulary, sequence_tokens in _shapes_of(spec, datasets):
        spec.layout.validate(
            spec.model, vocabulary, sequence_tokens, spec.train.global_batch, spec.launch.ranks
        )


def _shapes_of(spec: RunSpec, datasets: Sequence[DatasetRecord]) -> Iterator[tuple[int, int]]:
    """Vocabulary and tokens of a sample of each dataset of a decoder.

    An encoder's layout needs nothing of the dataset: the run file was checked for it.
    """
    for dataset in datasets if spec.trained is spec.model else ():
        vocabulary, sequence_tokens = dataset.figures.get("vocabulary"), dataset.recipe.get("sequence_tokens")
        if isinstance(vocabulary, int) and isinstance(sequence_tokens, int):
            yield vocabulary, sequence_tokens


def site_of(launch: LaunchSpec, home: Home, reach: Reach | None = None) -> Site | None:
    """How the run's nodes are reached; None where all of it is on this one. Raises LauncherSilent."""
    reach = reach or reach_of(os.environ, launch.interface)
    return None if reach is None else Site(reach, home.root.absolute(), Path.cwd())


def _here(site: Site | None) -> str:
    """What the events call the node of the supervisor."""
    here = os.environ.get("SLURMD_NODENAME") or platform.node()
    return here if site is not None and here in site.reach.nodes else "local"


def _on_record(house: House, run: RunId, site: Site | None) -> OnRecord:
    others = () if site is None else site.reach.nodes
    return on_record_of(house.ledger, house.home, run, _here(site), others)


def room_of(spec: RunSpec, datasets: Sequence[DatasetRecord], named: Sequence[str] = ()) -> Room:
    """The nodes that the run's ranks can be on, and the worlds that its layout and batch allow.

    Without the names of real nodes this one plays them.
    """
    launch = spec.launch
    if not named and launch.nodes + launch.spare_nodes == 1:
        return one_node(launch.ranks)
    nodes = tuple(named) or tuple(f"local-{number}" for number in range(launch.nodes + launch.spare_nodes))
    node_ranks = launch.ranks // launch.nodes
    smaller = range(launch.ranks - node_ranks, 0, -node_ranks) if launch.shrink else ()
    fitting = (ranks for ranks in smaller if _fits(spec, datasets, ranks))
    return Room(nodes, node_ranks, (launch.ranks, *fitting))


def _fits(spec: RunSpec, datasets: Sequence[DatasetRecord], ranks: int) -> bool:
    smaller = replace(spec, launch=replace(spec.launch, ranks=ranks, nodes=1))
    batch = spec.train.global_batch
    return not any(smaller.problems()) and not any(
        any(spec.layout.problems(spec.model, vocabulary, sequence_tokens, batch, ranks))
        for vocabulary, sequence_tokens in _shapes_of(spec, datasets)
    )


def policy_of(spec: RunSpec, datasets: Sequence[DatasetRecord] = (), named: Sequence[str] = ()) -> Policy:
    """What the launch section of a run file allows, on nodes of these names where they are real ones."""
    launch = spec.launch
    return Policy(
        world_size=launch.ranks,
        nodes=room_of(spec, datasets, named),
        restarts=launch.restarts,
        hang_after_s=launch.hang_after_s,
        hang_at_least_s=launch.hang_at_least_s,
        start_within_s=launch.start_within_s,
        retry_codes=RETRY_CODES,
        row_limit=launch.failures_in_row,
        symptom_codes=SYMPTOM_CODES,
    )


def live_dataset(ledger: Ledger, name: str, clock: Clock) -> DatasetRecord:
    """The newest version of dataset `name` that lives. Raises UnknownDataset, DatasetGone."""
    newest = ledger.catalogue.latest_dataset(name)
    live = [each for each in ledger.catalogue.datasets(name) if each.state is DatasetState.LIVE]
    if not live:
        raise DatasetGone(
            f"No version of dataset {name} lives; the newest, {newest.version}, is {newest.state}.",
            hint="Prepare it again from its source.",
        )
    require_live(live[-1], clock)
    return live[-1]


def _datasets_of(ledger: Ledger, record: RunRecord, spec: RunSpec) -> tuple[DatasetRecord, ...]:
    """The very versions that the run began with, in the order of its run file."""
    found = [ledger.catalogue.dataset_of_root(root) for root in ledger.catalogue.roots_of_run(record)]
    by_name = {each.name: each for each in found}
    missing = [name for name in spec.datasets if name not in by_name]
    if missing or len(found) != len(spec.datasets):
        raise NotResumable(
            f"The ledger records run {record.id} with the datasets {', '.join(by_name)}, and its run file "
            f"names {', '.join(spec.datasets)}.",
            hint="Look at both with `stoker run report` and `stoker audit verify`.",
        )
    return tuple(by_name[name] for name in spec.datasets)


def _supervise(
    house: House,
    record: RunRecord,
    spec: RunSpec,
    datasets: Sequence[DatasetRecord],
    faults: Sequence[Fault],
    held: Confinement,
    device: ChosenDevice,
    rank_command: Sequence[str],
    site: Site | None,
    links: Sequence[Link],
    *,
    resumed: _Resumed | None = None,
) -> RunSummary:
    """Supervise the run to its end. The caller holds the supervisor's lock."""
    harden_process()  # it holds keys for hours: no core file, and no other process looks into it
    home, run = house.home, record.id
    folder = RunFolder.of(home.runs_dir, run)
    dataset = datasets[0]
    node = _here(site)
    job = Job(
        run=run,
        attempt=0,
        world_size=spec.launch.ranks,
        node="local",
        spec=spec,
        spec_digest=record.spec_digest,
        store_url=house.store_url,
        cache_folder=str(home.cache_dir),
        run_folder=str(folder.path),
        rendezvous="",
        dataset=dataset.name,
        dataset_version=dataset.version,
        dataset_root=dataset.root,
        dataset_public_key=house.backend.signer("manifest").public_key.hex(),
        review=dataset.review,
        review_digest=_review_digest(house, dataset),
        checkpoint_kek=str(sealing_kek(house.backend, KekRef.parse(record.kek))),
        resume=None,
        parts=tuple(
            JobPart(each.name, each.version, each.root, _review_digest(house, each), part.weight)
            for each, part in zip(datasets if spec.mixture else (), spec.mixture, strict=True)
        ),
        init_digest=digest_on_record(house.ledger, run),
        device=device.device,
    )
    errands = HouseErrands(
        house.ledger,
        house.backend,
        folder,
        tuple(each.root for each in datasets),
        job,
        house.actor,
        house.clock,
        rank_command,
        links,
        failures=_believed(house, spec),
    )
    charge = Charge(
        run=run,
        folder=folder,
        node=node,
        steps=spec.train.steps,
        policy=policy_of(spec, datasets, () if site is None else site.reach.nodes),
        environment={
            **rank_environment(
                os.environ, spec.launch.threads_per_rank, "file:" if held.handed else house.store_url
            ),
            **device_environment(device.device, bounded=held.writable is not None),
        },
        isolation=held.isolation,
        faults=tuple(faults),
        isolate_by=spec.launch.isolate_by,
        probe_every_s=spec.launch.isolation_probe_every_s,
        links=links,
        writable=held.writable,
        open_because=held.open_because,
        rank_output=spec.launch.rank_output,
        witnesses=witnesses_here(folder, node, house.clock, _on_record(house, run, site).lines),
        failures_in_row=0 if resumed is None else resumed.failures_in_row,
        forgiven=resumed is not None and resumed.forgiven,
        left_open=None if resumed is None else resumed.left_open,
        standby_after_s=spec.launch.standby_after_s if spec.launch.standby else None,
        device=device,
        site=site,
        wandb=wandb_run(run, spec) if spec.watch.wandb else None,
    )
    with _saying_how_to_go_on(run):
        _wait_for_earlier_attempt(folder, house.clock)
        if resumed is not None:
            reopen_run(house, record)
        with recording(house, record) as verdicts, second_level(house, job) as second:
            hand = hand_of(house.store_url, run, datasets) if held.handed else None
            errands = replace(errands, second=second)
            supervisor = Supervisor(replace(charge, hand=hand), errands, house.progress, house.clock)
            verdicts.append(supervisor.run())
    return summarise(read_run(home, house.ledger, run), verdicts[-1], folder)


def _believed(house: House, spec: RunSpec) -> FailureRate | None:
    """What is believed of a node's failures; None for a run that saves after a fixed number of steps."""
    if spec.train.checkpoint_every is not CheckpointEvery.AUTO:
        return None
    prior = FailureRate.prior(house.failures_per_1000_node_days)
    return believed_rate(prior, house.home.runs_dir, house.ledger.catalogue.runs(), house.clock.now_s())


def _review_digest(house: House, dataset: DatasetRecord) -> str:
    """The digest of the review that the dataset was sealed under, 64 hexadecimal digits."""
    return review_digest(house.ledger.catalogue.review(dataset.review)).hex()


@contextlib.contextmanager
def _saying_how_to_go_on(run: RunId) -> Iterator[None]:
    """Errors of the supervisor itself, such as a full disk, leave a run that can be resumed."""
    try:
        yield
    except StokerError as error:
        error.hint = f"{error.hint} To go on with this run: stoker run resume {run}".lstrip()
        raise


def _wait_for_earlier_attempt(folder: RunFolder, clock: Clock) -> None:
    deadline_s = clock.monotonic_s() + EARLIER_ATTEMPT_S
    while (lock := held_lock(folder)) is not None:
        if clock.monotonic_s() > deadline_s:
            raise Busy(
                f"Processes of an earlier attempt still hold {lock}.",
                hint="They should have ended with their supervisor. Look which they are, then end them.",
            )
        clock.sleep(0.05)
