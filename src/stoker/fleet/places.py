"""On which nodes an attempt runs, and with how many ranks. Pure. See docs/design/fleet.md, "Nodes"."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Room:
    """The nodes that a run has, spare ones last, and the worlds that fit its layout and batch.

    `worlds` are numbers of ranks, the wanted one first and then ever fewer; each is a multiple of
    `node_ranks`, how many a node takes.
    """

    nodes: tuple[str, ...]
    node_ranks: int
    worlds: tuple[int, ...]

    @property
    def wanted(self) -> int:
        return self.worlds[0]

    def place(self, lost: Collection[str] = (), before: Sequence[str] = ()) -> tuple[str, ...]:
        """The node of each rank of the largest world that the living nodes take; empty when none fits.

        Nodes that were used before stay where they are, so that what they have cached is of use; spare ones
        take the place of those that are lost.
        """
        living = [node for node in self.nodes if node not in lost]
        world = next((each for each in self.worlds if each <= len(living) * self.node_ranks), 0)
        count = world // self.node_ranks
        kept = [node for node in dict.fromkeys(before) if node in living]
        chosen = [*kept, *(node for node in living if node not in kept)][:count]
        return tuple(node for node in self._in_order(chosen, before) for _ in range(self.node_ranks))

    def _in_order(self, chosen: Sequence[str], before: Sequence[str]) -> Iterator[str]:
        """Each that stays keeps its position, as far as there are so many; the others fill the gaps."""
        places = list(dict.fromkeys(before))[: len(chosen)]
        stay = {node: position for position, node in enumerate(places) if node in chosen}
        others = iter([node for node in chosen if node not in stay])
        by_position = {position: node for node, position in stay.items()}
        for position in range(len(chosen)):
            yield by_position.get(position) or next(others)


def one_node(ranks: int, name: str = "local") -> Room:
    """A run whose ranks all are on one node, which cannot shrink."""
    return Room((name,), ranks, (ranks,))
