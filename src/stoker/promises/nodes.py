"""The caches of other nodes, on which a death can only be tried there. See docs/design/keys.md, "Nodes".

A node is known once a run began or a program opened a dataset on it, since only then a cache is filled; or
because `[cache] nodes` names it. What was tried there stands in the ledger. Until something does, the death
is not proved, and the proof says where it has to be tried.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from stoker.core.node import is_node
from stoker.core.settings import CacheSettings
from stoker.keys.death import Canary, Outcome, Trial, all_proofs
from stoker.keys.refs import KekRef
from stoker.ledger.ledger import Ledger

FILLING_ACTS: Final = frozenset({"run.start", "run.resume", "dataset.open"})
"""Acts after which a node's cache may hold shards. Their detail says on which node."""


def cache_of(node: str) -> str:
    """What the cache of a node is called among the replicas of a proof."""
    return f"node cache {node}"


def other_nodes(ledger: Ledger, here: str, settings: CacheSettings) -> tuple[str, ...]:
    """Every node but `here` whose cache may hold something, by name; without those in `[cache] retired`.

    A node that is only declared, and did nothing yet, has the name that it was declared by.
    """
    acted = {entry.detail.get("node") for entry in ledger.audit.acts(set(FILLING_ACTS))}
    known = {name for name in acted if isinstance(name, str)} | {here}
    known |= {called for called in settings.nodes if not any(is_node(name, called) for name in known)}
    gone = {
        name for name in known if any(is_node(name, called) or name == called for called in settings.retired)
    }
    return tuple(sorted(known - gone - {here}))


@dataclass(frozen=True, slots=True)
class CacheElsewhere:
    """The cache of another node: what its own proof saw, as the ledger tells it."""

    node: str
    ledger: Ledger

    @property
    def name(self) -> str:
        """See Replica."""
        return cache_of(self.node)

    def canary(self, kek: KekRef) -> Canary | None:
        """None: what lies in a cache lies in the store as well."""
        return None

    def try_opening(self, kek: KekRef) -> Trial:
        """See Replica: the newest trial on that node itself; untried as long as there is none."""
        for proof in reversed(all_proofs(self.ledger, kek)):
            for trial in proof.trials:
                tried_there = trial.tried_s is None and trial.outcome is not Outcome.UNTRIED
                if tried_there and _is_cache_of(trial.replica, self.node):
                    return replace(trial, tried_s=proof.proved_s)
        return Trial.of(self.name, (), untried=[f"not reached from here; run there: stoker key prove {kek}"])


def _is_cache_of(replica: str, called: str) -> bool:
    node = replica.removeprefix(cache_of(""))
    return node != replica and is_node(node, called)


def elsewhere(ledger: Ledger, here: str, settings: CacheSettings) -> Iterable[CacheElsewhere]:
    """The caches of all other nodes."""
    return (CacheElsewhere(node, ledger) for node in other_nodes(ledger, here, settings))
