"""What Slurm does to a run over several nodes: the losses stay those of a run that nobody disturbed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from stoker.core.events import EventKind
from stoker.core.ids import RunId
from stoker.fleet.launchers import JobState
from support.cli_home import copied
from support.cli_levels import Levels
from support.slurm_home import LONG, SlurmHome
from support.slurm_testbed import Slurm

K = EventKind
OVER_TWO = ("launch.ranks=2", "launch.nodes=2", "launch.spare_nodes=1", "launch.interface=lo")


def test_nodes_drained_lost_and_down_a_preemption_and_a_controller_that_dies_change_no_loss(
    levels: Levels, tmp_path: Path, slurm: Slurm
) -> None:
    home = copied(levels.home("prepared"), tmp_path / "there")
    home.environment.update(SLURM_CONF=str(slurm.conf))
    there = SlurmHome(home, slurm)
    run, job = there.submit(*LONG, *OVER_TWO)
    watch = there.watch()

    def goes_on(attempt: int) -> list[str]:
        """The attempt of this number commits; on which nodes it is."""
        there.until(
            lambda: any(each.attempt == attempt for each in there.of_kind(run, K.CHECKPOINT_COMMITTED)),
            lambda: list(watch.look()),
        )
        (started,) = [each for each in there.of_kind(run, K.ATTEMPT_STARTED) if each.attempt == attempt]
        return list(started.fields["placed"])

    first = goes_on(1)
    slurm.restart_controller()
    slurm.say("scontrol", "update", f"nodename={first[1]}", "state=drain", "reason=test")
    done = len(there.steps(run))
    there.until(lambda: len(there.steps(run)) > done + 20)
    assert there.attempt_of_last_step(run) == 1, "neither touches a run that goes on"
    slurm.resume(first[1])

    slurm.lose_node(first[1])
    second = goes_on(2)
    assert second[0] == first[0] and second[1] not in first
    slurm.bring_back(first[1])

    slurm.say("scontrol", "requeue", job)
    third = goes_on(3)
    view = there.launcher.job(job)
    assert (view.state, view.restarts) == (JobState.RUNNING, 1)

    slurm.say("scontrol", "update", f"nodename={third[1]}", "state=down", "reason=test")
    fourth = goes_on(4)
    assert fourth[0] == third[0] and fourth[1] not in third
    assert [each.text("name") for each in there.of_kind(run, K.NODE_LOST)] == [first[1], third[1]]
    there.launcher.cancel(job)
    there.until(lambda: there.launcher.job(job).state is JobState.CANCELLED)
    there.until(lambda: there.home.processes() == {})
    disturbed = losses(there, run)

    undisturbed = there.home.start("train", "run.toml", *LONG, *OVER_TWO[:1])
    there.until(lambda: len(there.home.runs()) == 2)
    (other,) = (RunId(each) for each in there.home.runs() if each != run)
    there.until(lambda: len(there.steps(other)) >= len(disturbed))
    os.killpg(undisturbed.pid, signal.SIGINT)
    undisturbed.wait()
    assert list(disturbed) == list(range(1, len(disturbed) + 1))
    expected = losses(there, other)
    assert disturbed == {step: expected[step] for step in disturbed}


def losses(there: SlurmHome, run: RunId) -> dict[int, float]:
    """By step, of the attempt that did it last."""
    found = {int(each.number("step")): each.number("loss") for each in there.of_kind(run, K.STEP)}
    return dict(sorted(found.items()))
