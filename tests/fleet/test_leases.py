"""Leases of real runs: a review revoked, a way out opened, a lease not renewed, each in mid-run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stoker.core.clock import SystemClock
from stoker.core.events import EventKind
from stoker.core.isolation import IsolationState, listening_outside
from stoker.fleet.errors import IsolationLost, LinkTooWeak
from stoker.fleet.run_folder import RunFolder
from stoker.fleet.run_state import Phase
from stoker.fleet.summary import read_run
from stoker.intake.errors import ReviewRevoked
from stoker.intake.review import decide_review, request_review, revoke_review
from stoker.keys.errors import LeaseRefused
from stoker.ledger.records import RunOutcome
from stoker.spec.recipe import PolicySpec
from stoker.spec.run import IsolationMeans, IsolationPolicy, LinksSpec
from stoker.spec.terms import NO_TERMS, Protection, ReviewTerms
from support.fake_house import FakeErrands, make_folder, supervise, told, wait_until
from support.run_house import SPEC, RunHouse, run_house
from support.watching import Watching

K = EventKind
QUICK = replace(SPEC, launch=replace(SPEC.launch, lease_s=2.0, isolation=IsolationPolicy.REQUIRED))
"""Renewed every second at the latest."""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[RunHouse]:
    with run_house(tmp_path / "home") as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return make_folder(tmp_path / "run")


def heeding(until: int) -> list[dict[str, Any]]:
    """Both ranks of the first attempt look at the lease before each step, of which there are many."""
    deeds: list[dict[str, Any]] = []
    for rank in (0, 1):
        deeds.append({"do": "heed_lease", "rank": rank, "at_step": "start", "attempt": 1})
    return deeds


class InMidRun(Watching):
    """A progress display that does something once, when a step is done."""

    def __init__(self, act: Callable[[], None]) -> None:
        self._act: Callable[[], None] | None = act

    def describe(self, text: str) -> None:
        act, self._act = self._act, None
        if act is not None:
            act()


def revoke(house: RunHouse) -> None:
    """End the review that the house began with."""
    revoke_review(
        house.review.id,
        reason="no longer",
        revoked_by="decider",
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )


def approved_anew(house: RunHouse, terms: ReviewTerms = NO_TERMS) -> None:
    (source,) = house.ledger.catalogue.sources("text")
    review = request_review(
        source,
        "6" * 64,
        PolicySpec(),
        purpose="research",
        requested_by="asker",
        valid_s=7_200.0,
        ledger=house.ledger,
        clock=house.clock,
        terms=terms,
    )
    decide_review(
        review.id,
        approve=True,
        reason="fine again",
        decided_by="decider",
        ledger=house.ledger,
        backend=house.backend,
        clock=house.clock,
    )


def test_a_review_revoked_in_mid_run_ends_it_within_one_renewal_and_it_goes_on_after_a_new_approval(
    house: RunHouse,
) -> None:
    spec = replace(QUICK, train=replace(QUICK.train, steps=2_000, checkpoint_every_steps=2))
    failed = house.start(spec, deeds=heeding(2_000), progress=InMidRun(lambda: revoke(house)))
    assert failed.outcome is RunOutcome.FAILED
    assert failed.error is not None
    assert failed.error.exit_code == ReviewRevoked.exit_code
    run = RunFolder.of(house.home.runs_dir, failed.run)
    (ended,) = told(run, K.LEASE_ENDED)
    assert ended.text("reason") == "review-revoked"
    errors = told(run, K.RANK_ERROR)
    assert {event.text("error_id") for event in errors} == {"lease-refused"}
    assert {event.number("exit_code") for event in told(run, K.RANK_EXITED)} == {
        float(LeaseRefused.exit_code)
    }
    steps = [int(event.number("step")) for event in told(run, K.STEP)]
    assert max(steps) < 2_000
    with pytest.raises(ReviewRevoked):
        house.resume(failed.run)
    approved_anew(house)
    saved = failed.last_checkpoint_step
    assert saved is not None
    # What is left would take long: the next attempt ends itself two steps after it went on.
    stop = [{"do": "exit", "rank": 0, "at_step": saved + 2, "attempt": "any", "code": 57, "report": True}]
    again = house.resume(failed.run, deeds=stop)
    assert again.error is not None
    assert again.error.exit_code == 57
    resumed = [int(e.number("step")) for e in told(run, K.STEP) if e.attempt == 2]
    assert resumed[0] == saved + 1
    starts = told(run, K.ATTEMPT_STARTED)
    assert [int(e.number("resume_step")) for e in starts] == [0, saved]


class SetClock(SystemClock):
    """A wall clock that somebody sets."""

    set_by_s = 0.0

    def now_s(self) -> float:
        return super().now_s() + self.set_by_s


def test_a_wall_clock_that_goes_back_lets_no_lease_run_out(house: RunHouse) -> None:
    """The run is longer than a lease, so it ends well only when that is renewed by the time that passes."""
    clock = SetClock()
    spec = replace(
        QUICK,
        train=replace(QUICK.train, steps=1_000, checkpoint_every_steps=200),
        launch=replace(QUICK.launch, lease_s=9.0),
    )
    act = InMidRun(lambda: setattr(clock, "set_by_s", -1_800.0))
    summary = house.start(spec, deeds=heeding(1_000), progress=act, clock=clock)
    run = RunFolder.of(house.home.runs_dir, summary.run)
    assert summary.outcome is RunOutcome.FINISHED
    assert not told(run, K.RANK_ERROR)
    assert len(told(run, K.ATTEMPT_STARTED)) == 1


def test_a_lease_that_was_ended_is_not_renewed_while_its_attempt_is_slow_to_go(house: RunHouse) -> None:
    """The agent stands still while the run is cancelled twice, for longer than between two renewals."""

    def hold_and_cancel() -> None:
        (path,) = house.home.runs_dir.iterdir()
        run = RunFolder(path)
        rank = int(told(run, K.RANK_SPAWNED)[0].number("pid"))
        agent = int(Path(f"/proc/{rank}/stat").read_text().rpartition(")")[2].split()[1])
        os.kill(agent, signal.SIGSTOP)
        for times in (1, 2):
            os.kill(os.getpid(), signal.SIGINT)
            wait_until(lambda times=times: len(told(run, K.CANCEL_REQUESTED)) == times, "it was heard")
        time.sleep(2.5)
        os.kill(agent, signal.SIGCONT)

    thread = threading.Thread(target=hold_and_cancel)
    spec = replace(QUICK, train=replace(QUICK.train, steps=4_000))
    try:
        summary = house.start(spec, progress=InMidRun(thread.start))
    finally:
        thread.join()
    assert (summary.outcome, summary.error) == (RunOutcome.CANCELLED, None)


def open_a_way(folder: RunFolder) -> None:
    """From outside, as root: a network device moves into the namespace of the ranks."""
    wait_until(lambda: len(told(folder, K.STEP)) >= 3 if folder.events.exists() else False, "steps are made")
    (pid, *_) = [int(event.number("pid")) for event in told(folder, K.RANK_SPAWNED)]
    name = f"way{os.getpid() % 100_000}"
    subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True)
    subprocess.run(["ip", "link", "set", name, "netns", str(pid)], check=True)
    entered = ["nsenter", "-t", str(pid), "-n", "ip"]
    subprocess.run([*entered, "addr", "add", "10.99.0.1/24", "dev", name], check=True)
    subprocess.run([*entered, "link", "set", name, "up"], check=True)


@pytest.mark.parametrize("means", [IsolationMeans.NAMESPACE, IsolationMeans.BUBBLEWRAP])
def test_a_way_out_that_is_opened_in_mid_run_is_noticed_and_ends_the_attempt(
    tmp_path: Path, means: IsolationMeans
) -> None:
    with run_house(tmp_path / "home") as house:
        launch = replace(QUICK.launch, isolate_by=means, isolation_probe_every_s=0.2)
        spec = replace(QUICK, launch=launch, train=replace(QUICK.train, steps=5_000))
        opened: list[BaseException] = []

        def open_it() -> None:
            try:
                wait_until(lambda: bool(list(house.home.runs_dir.glob("r-*"))), "the run has a folder")
                (path,) = house.home.runs_dir.glob("r-*")
                open_a_way(RunFolder(path))
            except BaseException as error:  # noqa: BLE001 - shown by the test
                opened.append(error)

        opener = threading.Thread(target=open_it)
        opener.start()
        try:
            summary = house.start(spec, deeds=heeding(5_000))
        finally:
            opener.join()
        assert not opened
        assert summary.outcome is RunOutcome.FAILED
        assert summary.error is not None
        assert summary.error.exit_code == IsolationLost.exit_code
        assert "network device way" in summary.error.message
        report = read_run(house.home, house.ledger, summary.run)
        assert report.probe is not None
        assert report.probe.state is IsolationState.OPEN
        assert report.probe.probes >= 2
        run = RunFolder.of(house.home.runs_dir, summary.run)
        states = [event.text("state") for event in told(run, K.ISOLATION_PROBED)]
        assert states == ["isolated"] * (len(states) - 1) + ["open"]
        assert {e.text("error_id") for e in told(run, K.RANK_ERROR)} == {"lease-refused"}
        assert len(told(run, K.ATTEMPT_STARTED)) == 1


def test_a_lease_that_nobody_renews_ends_the_ranks_which_then_go_on_under_a_new_one(house: RunHouse) -> None:
    """The supervisor asks once for a lease, and then is told of an expiry that is over."""
    from stoker.fleet.errands import HouseErrands

    asked: list[int] = []
    lasting = HouseErrands.lease_expiry_s

    def expiry(self: HouseErrands) -> float:
        asked.append(1)
        return self.clock.now_s() - 1.0 if len(asked) == 3 else lasting(self)

    patient = replace(QUICK.launch, restarts=50)  # on a busy machine a lease of 2 s runs out by itself, too
    spec = replace(QUICK, launch=patient, train=replace(QUICK.train, steps=200, checkpoint_every_steps=2))
    patched = pytest.MonkeyPatch()
    patched.setattr(HouseErrands, "lease_expiry_s", expiry)
    try:
        summary = house.start(spec, deeds=heeding(200))
    finally:
        patched.undo()
    assert summary.outcome is RunOutcome.FINISHED
    run = RunFolder.of(house.home.runs_dir, summary.run)
    assert {e.text("error_id") for e in told(run, K.RANK_ERROR)} == {"lease-expired"}
    assert len(told(run, K.ATTEMPT_STARTED)) >= 2


def test_bubblewrap_isolates_as_a_namespace_does(folder: RunFolder) -> None:
    deeds = [{"do": "show", "rank": 0, "at_step": "start", "attempt": 1}]
    verdict = supervise(
        FakeErrands(folder, deeds=deeds),
        isolation=IsolationPolicy.REQUIRED,
        isolate_by=IsolationMeans.BUBBLEWRAP,
    )
    assert verdict.outcome is Phase.FINISHED
    shown = json.loads(folder.rank_log(1, 0).read_text().splitlines()[0])
    assert shown["networks"] == ["lo"]


@pytest.mark.parametrize("means", [IsolationMeans.NAMESPACE, IsolationMeans.BUBBLEWRAP])
def test_a_rank_reaches_neither_a_socket_file_nor_the_machines_loopback(
    folder: RunFolder, means: IsolationMeans
) -> None:
    with listening_outside() as outside:
        reach = {"do": "reach", "rank": 0, "at_step": "start", "attempt": 1}
        deeds = [{**reach, "path": outside.path, "port": outside.port}]
        verdict = supervise(
            FakeErrands(folder, deeds=deeds), isolation=IsolationPolicy.REQUIRED, isolate_by=means
        )
    assert verdict.outcome is Phase.FINISHED
    assert json.loads(folder.rank_log(1, 0).read_text()) == ["PermissionError", "ConnectionRefusedError"]


def test_atk_064_a_rank_leaves_no_plaintext_in_shared_folders(house: RunHouse) -> None:
    text = "jane.roe@example.org"
    with tempfile.TemporaryDirectory() as shared:
        places = [f"{shared}/spill", "/dev/shm/stoker-spill", str(house.home.root / "spill")]
        deeds = [{"do": "spill", "rank": 0, "at_step": 1, "attempt": 1, "places": places, "text": text}]
        summary = house.start(QUICK, deeds=[*deeds])
        log = RunFolder.of(house.home.runs_dir, summary.run).rank_log(1, 0).read_text()
        assert json.loads(log) == dict.fromkeys(places, "Permission denied")
        assert not any(Path(place).exists() for place in places)


def test_what_crosses_links_below_a_reviews_terms_is_refused_before_a_key_is_made(house: RunHouse) -> None:
    """The one review in force was approved with terms; another one lets the same run begin."""
    weak = replace(QUICK, launch=replace(QUICK.launch, links=LinksSpec(ranks=Protection.NONE)))
    revoke(house)
    approved_anew(house, ReviewTerms(least_protection=Protection.TLS))
    keks = house.backend.list_keks()
    with pytest.raises(LinkTooWeak, match=r"asks for links protected by tls or better: ranks has none"):
        house.start(weak)
    assert house.actions() == []
    assert house.backend.list_keks() == keks
    assert not list(house.home.runs_dir.glob("r-*"))
    summary = house.start(QUICK)
    assert summary.outcome is RunOutcome.FINISHED
    shown = {link.name: link.protection for link in read_run(house.home, house.ledger, summary.run).links}
    assert shown == dict.fromkeys(("ranks", "keys", "events", "store"), Protection.LOOPBACK)


def test_a_stricter_approval_ends_a_run_over_weak_links_at_its_next_renewal(house: RunHouse) -> None:
    """The newest review in force counts, and it is asked for again at each renewal."""
    weak = replace(QUICK, launch=replace(QUICK.launch, links=LinksSpec(ranks=Protection.ISOLATED_FABRIC)))
    spec = replace(weak, train=replace(weak.train, steps=2_000))
    stricter = InMidRun(lambda: approved_anew(house, ReviewTerms(least_protection=Protection.TLS)))
    failed = house.start(spec, deeds=heeding(2_000), progress=stricter)
    assert failed.error is not None
    assert failed.error.exit_code == LinkTooWeak.exit_code
    run = RunFolder.of(house.home.runs_dir, failed.run)
    assert [event.text("reason") for event in told(run, K.LEASE_ENDED)] == [LinkTooWeak.id]


def test_where_closing_workers_is_required_stands_in_the_settings(tmp_path: Path) -> None:
    from stoker.core.home import Home
    from stoker.core.isolation import Closing
    from stoker.core.settings import load_settings

    home = Home(tmp_path / "home").prepare()
    assert load_settings(home, tmp_path).value.preparing.isolation is Closing.WHEN_POSSIBLE
    home.settings_path.write_text('[preparing]\nisolation = "required"\n')
    assert load_settings(home, tmp_path).value.preparing.isolation is Closing.REQUIRED
