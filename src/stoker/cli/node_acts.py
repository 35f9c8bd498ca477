"""`stoker node ls`, `show`, `drain`, `resume`, `exclude`: where nodes stand, and what people decide."""

from __future__ import annotations

from pathlib import Path

import click

from stoker.cli.command import Deed, House, command
from stoker.cli.node_text import (
    Lemons,
    Nodes,
    NodeShown,
    lemons_text,
    nodes_text,
    row_of,
    shown,
    shown_text,
)
from stoker.fleet.nodes.errors import NodeActRefused
from stoker.fleet.nodes.finding import one_line
from stoker.fleet.nodes.node_acts import (
    Listing,
    node_record,
    node_records,
    record_event,
    require_possible,
)
from stoker.fleet.nodes.node_acts import exclude as record_listing
from stoker.fleet.nodes.node_state import Drain, Overrule, Resume

_DAY_S = 86_400.0


def _reason(text: str) -> str:
    if not text.strip():
        raise NodeActRefused("A node is not acted on without a reason.", hint="Add --reason.")
    return one_line(text)


@command("ls", needs=Deed.LOOK, text=nodes_text)
def ls(house: House) -> Nodes:
    """Every node that was ever recorded, and where it stands."""
    return Nodes(tuple(map(row_of, node_records(house.ledger))))


@command("show", needs=Deed.LOOK, text=shown_text)
@click.argument("node")
def show(house: House, node: str) -> NodeShown:
    """One node: its state, the reasons with their evidence, its history."""
    return shown(node_record(house.ledger, node))


@command("drain", needs=Deed.NODE_DRAIN, text=shown_text)
@click.argument("node")
@click.option("--reason", required=True, help="Why, for the record.")
@click.option("--now", is_flag=True, help="End what runs there; otherwise it may come to its end.")
def drain(house: House, node: str, reason: str, now: bool) -> NodeShown:
    """Take NODE out of use; only a person brings it back."""
    event = Drain(house.clock.now_s(), house.actor, _reason(reason), now)
    record_event(house.ledger, node, event, actor=house.actor)
    return shown(node_record(house.ledger, node))


@command("resume", needs=Deed.NODE_RESUME, text=shown_text)
@click.argument("node")
@click.option("--reason", required=True, help="Why, for the record.")
@click.option("--overrule", is_flag=True, help="Bring it back whatever its checks say.")
@click.option(
    "--days", type=click.FloatRange(0, 90), default=7.0, show_default=True, help="How long with --overrule."
)
def resume(house: House, node: str, reason: str, overrule: bool, days: float) -> NodeShown:
    """Let NODE come back: once all checks pass, or at once with --overrule."""
    now_s, said = house.clock.now_s(), _reason(reason)
    if overrule:
        hint = "A node that is out is empty first; one that takes work needs no overruling."
        require_possible(house.ledger, node, Overrule, hint)
        record_event(
            house.ledger,
            node,
            Overrule(now_s, house.actor, said, now_s + days * _DAY_S),
            actor=house.actor,
        )
    else:
        hint = "It takes work, or returns by itself once its checks pass: stoker node show."
        require_possible(house.ledger, node, Resume, hint)
        record_event(house.ledger, node, Resume(now_s, house.actor, said), actor=house.actor)
    return shown(node_record(house.ledger, node))


@command("exclude", needs=Deed.NODE_EXCLUDE, text=shown_text)
@click.argument("node")
@click.option("--reason", required=True, help="Why, for the record.")
@click.option("--never", is_flag=True, help="Never leave it out for its lemon score.")
@click.option("--by-score", is_flag=True, help="Take back what was said: its lemon score decides.")
def exclude(house: House, node: str, reason: str, never: bool, by_score: bool) -> NodeShown:
    """Put NODE on the list that launchers leave out, whatever its lemon score."""
    if never and by_score:
        raise click.UsageError("--never and --by-score exclude each other.")
    listing = Listing.NEVER if never else Listing.BY_SCORE if by_score else Listing.ALWAYS
    record_listing(house.ledger, node, listing, reason, actor=house.actor)
    return shown(node_record(house.ledger, node))


@command("lemons", needs=Deed.LOOK, needs_with={"record": Deed.NODE_RECORD}, text=lemons_text)
@click.option("--jobs", type=click.Path(path_type=Path), help="A file of ended jobs, one as JSON a line.")
@click.option("--days", type=click.FloatRange(1, 366), default=28.0, show_default=True, help="The window.")
@click.option("--record", is_flag=True, help="Let launchers go by this from now on.")
def lemons(house: House, jobs: Path | None, days: float, record: bool) -> Lemons:
    """Score every node against its peers, and show which ones launchers leave out."""
    from stoker.fleet.nodes.lemon_list import judge, read_jobs, record_verdicts

    ended = () if jobs is None else read_jobs(jobs)
    found = judge(house.ledger, ended, now_s=house.clock.now_s(), days=days)
    if record:
        record_verdicts(house.ledger, found, actor=house.actor)
    return Lemons(found.since_s, found.scores, found.excluded, record)
