"""What an attempt died of: each sign has its meaning, and the likeliest is told with whom it concerns."""

from __future__ import annotations

import importlib
import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stoker
from stoker.core.errors import ERROR_CLASSES, EXIT_USAGE, ROOM_EXIT_CODES
from stoker.core.events import Event, EventKind
from stoker.core.isolation import NO_LOOPBACK
from stoker.fleet.attribution import AFTER_S, BEFORE_S, Attribution, Witness, attribute
from stoker.fleet.failure_texts import TEXTS, XID
from stoker.fleet.launch import RETRY_CODES
from stoker.fleet.machine import can_be_mended
from stoker.fleet.run_state import Cause, CauseKind, Policy
from stoker.fleet.taxonomy import CODES, RETRIED, SYMPTOMS, Component, FailureKind, Source
from stoker.fleet.witnesses import kernel_lines, kernel_records, output_lines
from support.run_events import Story

K = EventKind
PAGE = (Path(__file__).parent.parent.parent / "docs/design/attribution.md").read_text()
RANK_ROOMS = ("core", "ledger", "keys", "store", "intake", "feed", "spec", "train")


def classes_of(rooms: tuple[str, ...]) -> dict[int, str]:
    """Exit code and id of every error class of these rooms."""
    root = Path(stoker.__file__).parent
    for path in sorted(path for room in rooms for path in (root / room).rglob("*.py")):
        if "    exit_code = " in path.read_text():
            importlib.import_module(".".join(("stoker", *path.relative_to(root).with_suffix("").parts)))
    codes = {code for room in rooms for code in ROOM_EXIT_CODES[room]}
    return {code: each.id for code, each in ERROR_CLASSES.items() if code in codes}


def died(*told: tuple[EventKind, int, dict[str, object]], world: int = 2) -> list[Event]:
    """An attempt that ends with these events, a tenth of a second apart, 1,000 s after its start."""
    story = Story().begin().start_attempt(0, ready_after_s=1.0)
    for rank in range(world):
        story.tell(K.RANK_SPAWNED, rank=rank, pid=4_000 + rank)
    story.now_s = 1_000.0
    for kind, rank, fields in told:
        story.tell(kind, rank=rank, after_s=0.1, **fields)  # type: ignore[arg-type]
    return [event for event in story.events if event.attempt == 1]


def killed(rank: int, number: int = 9, **more: object) -> tuple[EventKind, int, dict[str, object]]:
    return (K.RANK_EXITED, rank, {"signal": number, **more})


def said(rank: int, error_id: str, message: str = "") -> tuple[EventKind, int, dict[str, object]]:
    return (K.RANK_ERROR, rank, {"error_id": error_id, "message": message})


def kernel(text: str, at_s: float = 1_000.0, node: str = "local") -> Witness:
    return Witness(at_s, node, Source.KERNEL, text)


def found(attribution: Attribution) -> tuple[str, str, int]:
    return attribution.kind.value, attribution.component.value, attribution.rank


def test_every_error_of_ranks_and_their_supervisor_is_in_the_table_by_code_and_id() -> None:
    known = classes_of(RANK_ROOMS)
    assert len(known) > 150
    named = {code: rule.error_id for code, rule in CODES.items()}
    assert {code: error_id for code, error_id in known.items() if code not in named} == {}, "not mapped"
    assert {code: named[code] for code in known} == known


def test_the_machine_and_the_table_agree_on_what_is_tried_again() -> None:
    policy = Policy(world_size=1, restarts=1, hang_after_s=1, start_within_s=1, retry_codes=RETRY_CODES)
    assert RETRY_CODES == RETRIED
    for code, rule in CODES.items():
        if not 130 <= code < 150:  # a rank cannot end with those: a shell says 128 + signal
            assert can_be_mended(policy, Cause(CauseKind.EXIT, 0, exit_code=code)) is rule.again, rule
    assert not can_be_mended(policy, Cause(CauseKind.EXIT, 0, exit_code=EXIT_USAGE))


def test_no_error_of_the_user_or_of_data_is_tried_again() -> None:
    again = {rule.meaning.kind for rule in CODES.values() if rule.again}
    assert again <= {FailureKind.SYSTEM_SOFTWARE, FailureKind.NETWORK}


@pytest.mark.parametrize("rule", CODES.values(), ids=lambda rule: rule.error_id)
def test_a_known_error_means_what_the_table_says(rule: object) -> None:
    error_id, meaning = rule.error_id, rule.meaning  # type: ignore[attr-defined]
    told = attribute(died(said(1, error_id), (K.RANK_EXITED, 1, {"exit_code": rule.exit_code})))  # type: ignore[attr-defined]
    assert found(told) == (meaning.kind.value, meaning.component.value, 1)
    assert told.confidence == pytest.approx(meaning.confidence)


@pytest.mark.parametrize(
    ("number", "kind", "component"),
    [
        (9, "system_software", "process"),
        (15, "system_software", "process"),
        (7, "system_software", "file_system"),
        (11, "system_software", "library"),
        (6, "system_software", "library"),
        (63, "unknown", ""),
    ],
)
def test_a_signal_alone_names_the_rank(number: int, kind: str, component: str) -> None:
    told = attribute(died(killed(1, number), killed(0)))
    assert found(told) == (kind, component, 1)
    assert told.node == "local"


def test_a_rank_that_the_kernel_killed_for_memory_is_told_from_one_that_somebody_killed() -> None:
    line = "Out of memory: Killed process 4001 (python) total-vm:1kB"
    told = attribute(died(killed(1), killed(0)), [kernel(line)])
    assert found(told) == ("system_software", "host_memory", 1)
    assert told.confidence > 0.9
    stranger = attribute(died(killed(1), killed(0)), [kernel(line.replace("4001", "77"))])
    assert found(stranger) == ("system_software", "process", 1)


def test_a_segmentation_fault_explains_the_rank_that_it_names_and_nobody_else() -> None:
    line = "python[4001]: segfault at 0 ip 00007f696a385ad8 sp 00007ffe2446fcd8 error 4 in libc.so.6[1+2]"
    told = attribute(died(killed(1), killed(0)), [kernel(line)])
    assert found(told) == ("system_software", "library", 1)
    assert told.confidence > 0.9
    stranger = attribute(died(killed(1), killed(0)), [kernel(line.replace("4001", "77"))])
    assert found(stranger) == ("system_software", "process", 1)


@pytest.mark.parametrize("code", [48, 45])
def test_an_xid_of_anothers_process_counts_only_as_a_fault_of_the_hardware(code: int) -> None:
    line = f"NVRM: Xid (PCI:0000:4e:00): {code}, pid=77, name=python, whatever"
    told = attribute(died(killed(1)), [kernel(line)])
    assert found(told)[:2] == (("hardware", "gpu_memory") if code == 48 else ("system_software", "process"))


def test_an_xid_that_says_nothing_says_nothing_of_a_rank_either() -> None:
    line = "NVRM: Xid (PCI:0000:4e:00): 45, pid=4001, name=python, whatever"
    assert found(attribute(died(killed(1)), [kernel(line)])) == ("system_software", "process", 1)


@pytest.mark.parametrize("code", XID)
def test_an_xid_on_the_node_explains_a_rank_that_died(code: int) -> None:
    line = f"NVRM: Xid (PCI:0000:4e:00): {code}, pid=4001, name=python, whatever"
    told = attribute(died(killed(1, 6)), [kernel(line)])
    if XID[code].confidence >= 0.6:
        assert (told.kind, told.component) == (XID[code].kind, XID[code].component)
    assert any("Xid" in each for each in told.evidence) == (
        (told.kind, told.component) == (XID[code].kind, XID[code].component)
    )


def test_two_sources_that_agree_are_believed_more_than_one() -> None:
    xid = kernel("NVRM: Xid (PCI:0000:4e:00): 48, DBE")
    check = Witness(1_100.0, "local", Source.CHECK, "ecc: 2 uncorrectable errors on GPU 3")
    one, both = (attribute(died(killed(0, 6)), seen) for seen in ([check], [check, xid]))
    assert found(one)[:2] == found(both)[:2] == ("hardware", "gpu_memory")
    assert one.confidence < both.confidence < 1.0
    again = attribute(died(killed(0, 6)), [check, check, check])
    assert again.confidence == one.confidence, "a source that repeats itself is one source"


def test_what_was_seen_outside_of_the_window_or_on_other_nodes_does_not_count() -> None:
    events = died(killed(0, 6))
    failed_s = events[-1].ts
    line = "NVRM: Xid (PCI:0000:4e:00): 79, GPU has fallen off the bus."
    for at_s, counts in (
        (failed_s - BEFORE_S + 1, True),
        (failed_s - BEFORE_S - 1, False),
        (failed_s + AFTER_S - 1, True),
        (failed_s + AFTER_S + 1, False),
    ):
        assert (attribute(events, [kernel(line, at_s)]).component is Component.PCIE) is counts
    assert attribute(events, [kernel(line, node="elsewhere")]).component is Component.LIBRARY
    assert (BEFORE_S, AFTER_S) == (600.0, 300.0)


def test_a_hang_is_dated_from_its_last_sign_and_explained_by_what_was_seen_then() -> None:
    hung = (K.RANK_HUNG, 1, {"silent_s": 900.0, "section": "compute"})
    alone = attribute(died(hung, killed(1), killed(0)))
    assert found(alone) == ("unknown", "process", 1)
    told = attribute(died(hung, killed(1)), [kernel("mlx5_core 0000:17:00.0: Link down", at_s=120.0)])
    assert found(told)[:2] == ("network", "link")


IN_COLLECTIVE = ["/x/torch/distributed/distributed_c10d.py:3000 all_gather"]
READING = ["/x/feed/stream.py:70 __next__"]


def stood(rank: int, frames: list[str], state: str = "S") -> tuple[EventKind, int, dict[str, object]]:
    return (K.RANK_STACK, rank, {"frames": frames, "process_state": state})


def test_a_rank_that_hung_because_somebody_stopped_it_says_so() -> None:
    hung = (K.RANK_HUNG, 0, {"silent_s": 9.0, "section": "data"})
    told = attribute(died(hung, stood(0, READING), stood(1, [], "T"), killed(0, ordered=True)))
    assert found(told) == ("system_software", "process", 1)
    assert "rank 1 was stopped by a signal" in told.evidence


@pytest.mark.parametrize(
    ("second", "cause"), [(IN_COLLECTIVE, ("network", "link")), (READING, ("unknown", "process"))]
)
def test_ranks_that_all_wait_for_one_another_point_at_what_lies_between(
    second: list[str], cause: tuple[str, str]
) -> None:
    hung = (K.RANK_HUNG, 1, {"silent_s": 9.0, "section": "compute"})
    spawned = [(K.RANK_SPAWNED, rank, {"pid": 7 + rank}) for rank in (0, 1)]
    told = attribute(died(*spawned, hung, stood(0, IN_COLLECTIVE), stood(1, second)))
    assert found(told)[:2] == cause


def test_a_loopback_that_died_under_the_ranks_is_the_link() -> None:
    probed = (K.ISOLATION_PROBED, -1, {"state": "isolated", "reason": NO_LOOPBACK})
    hung = (K.RANK_HUNG, 1, {"silent_s": 9.0, "section": "checkpoint"})
    told = attribute(died(probed, hung, killed(1, ordered=True)))
    assert found(told)[:2] == ("network", "link")


def test_a_rank_that_only_lost_its_peer_is_not_the_culprit() -> None:
    told = attribute(died(said(0, "peer-lost"), (K.RANK_EXITED, 0, {"exit_code": 118}), killed(1, 11)))
    assert found(told) == ("system_software", "library", 1)


def test_ranks_that_all_lost_one_another_point_at_the_network() -> None:
    told = attribute(
        died(said(0, "peer-lost"), (K.RANK_EXITED, 0, {"exit_code": 118}), killed(1, ordered=True))
    )
    assert found(told) == ("network", "link", 0)
    assert told.confidence < 0.5


def test_preemption_is_told_from_a_cancel_by_the_schedulers_word() -> None:
    line = "slurmstepd: error: *** JOB 12 ON n1 CANCELLED AT 2026-11-23T10:00:00 DUE TO PREEMPTION ***"
    told = attribute(died(killed(0, 15)), [Witness(1_000.0, "", Source.SCHEDULER, line)])
    assert found(told)[:2] == ("preemption", "scheduler")
    lost = Witness(1_000.0, "", Source.SCHEDULER, "12 NODE_FAIL 0:0")
    assert found(attribute(died(), [lost], ended_s=1_030.0))[:2] == ("hardware", "node")


def test_a_full_disk_is_found_in_the_last_words_of_an_error_that_is_not_ours() -> None:
    told = attribute(died(said(0, "unknown", "OSError: [Errno 28] No space left on device")))
    assert found(told) == ("system_software", "file_system", 0)


def test_damaged_bytes_while_saving_or_loading_are_of_the_checkpoint() -> None:
    events = died((K.RANK_ERROR, 0, {"error_id": "corrupt-stream", "section": "checkpoint"}))
    assert found(attribute(events)) == ("data", "checkpoint", 0)


def test_an_attempt_that_was_refused_is_attributed_to_what_refused_it() -> None:
    assert found(attribute(died(), refused="review-revoked")) == ("user_error", "permission", -1)
    assert found(attribute([], refused="store-unreachable")) == ("network", "store", -1)


def test_an_attempt_of_which_nobody_told_anything_lost_its_agent() -> None:
    assert found(attribute(died())) == ("system_software", "agent", -1)
    assert attribute([]).kind is FailureKind.UNKNOWN


def test_what_is_told_in_the_event_is_read_again_and_older_events_say_nothing() -> None:
    told = attribute(died(killed(1)))
    story = Story().tell(K.ATTEMPT_ENDED, outcome="failed", **told.fields())
    back = Attribution.told_in(story.events[0])
    assert back is not None
    assert (back.kind, back.component, back.rank, back.evidence) == (
        told.kind,
        told.component,
        told.rank,
        told.evidence,
    )
    assert back.sentence() == "system software, process on local (confidence 0.50)"
    assert Attribution.told_in(Story().tell(K.ATTEMPT_ENDED, outcome="failed").events[0]) is None


_EVENTS = st.lists(
    st.one_of(
        st.builds(killed, st.integers(0, 3), st.sampled_from([6, 9, 11, 15])),
        st.builds(said, st.integers(0, 3), st.sampled_from([*sorted(SYMPTOMS), "unknown", "disk-full", "?"])),
        st.builds(lambda rank: (K.RANK_HUNG, rank, {"silent_s": 5.0, "section": "data"}), st.integers(0, 3)),
    ),
    max_size=6,
)
_SEEN = st.lists(
    st.builds(
        Witness,
        st.floats(0, 2_000),
        st.sampled_from(["local", "", "other"]),
        st.sampled_from(list(Source)),
        st.one_of(st.text(max_size=40), st.sampled_from([f"NVRM: Xid (x): {code}, y" for code in XID])),
    ),
    max_size=6,
)


@settings(deadline=None)
@given(_EVENTS, _SEEN)
def test_any_signs_give_one_attribution_whatever_the_order_of_the_witnesses(
    told: list[tuple[EventKind, int, dict[str, object]]], seen: list[Witness]
) -> None:
    events = died(*told, world=4)
    first = attribute(events, seen)
    assert 0.0 <= first.confidence < 1.0
    assert math.isfinite(first.confidence)
    assert first.rank < 4
    assert first.node in ("", "local")
    # Of two meanings that are as likely the one told first is named; how likely it is does not depend on it.
    assert attribute(events, list(reversed(seen))).confidence == pytest.approx(first.confidence)


@settings(deadline=None)
@given(_EVENTS)
def test_more_lines_for_a_meaning_never_make_it_less_likely(
    told: list[tuple[EventKind, int, dict[str, object]]],
) -> None:
    events = died(*told, world=4)
    line = kernel("NVRM: Xid (x): 48, y", at_s=1_000.0)
    with_line = attribute(events, [line])
    assert (with_line.kind, with_line.component) == (FailureKind.HARDWARE, Component.GPU_MEMORY) or (
        with_line.confidence >= XID[48].confidence / 2
    )


def test_records_of_the_kernel_are_dated_and_old_ones_left_out() -> None:
    records = [
        b"6,1,1000000,-;old\n",
        b"4,2,999000000,-;NVRM: Xid (x): 48, y\n SUBSYSTEM=pci\n",
        b"no record",
        b"4,3,abc,-;also none",
    ]
    (line,) = kernel_lines(records, "n0", now_s=5_000.0, mono_s=1_000.0)
    assert (line.at_s, line.text, line.node) == (4_999.0, "NVRM: Xid (x): 48, y", "n0")


def test_a_kernel_log_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    assert list(kernel_records(tmp_path / "absent")) == []
    (tmp_path / "log").write_bytes(b"6,1,5,-;a line\n")
    assert list(kernel_records(tmp_path / "log")) == [b"6,1,5,-;a line\n"]


def test_what_ranks_printed_last_is_a_witness_of_theirs(tmp_path: Path) -> None:
    (tmp_path / "rank-1.log").write_text("x" * 70_000 + "\nncclRemoteError\n")
    lines = list(output_lines(tmp_path, "n0"))
    assert (lines[-1].text, lines[-1].rank, lines[-1].source) == ("ncclRemoteError", 1, Source.OUTPUT)


def test_the_page_names_every_kind_component_and_xid_and_every_group_of_codes() -> None:
    for name in (*FailureKind, *(each for each in Component if each)):
        assert f"`{name.value}`" in PAGE, name
    assert set(XID) == {int(each) for each in _xids_on_the_page()}
    assert len(TEXTS) > 60


def _xids_on_the_page() -> list[str]:
    row = next(line for line in PAGE.splitlines() if line.startswith("| Xid codes"))
    return [word for word in row.replace(",", " ").split() if word.isdigit()]
