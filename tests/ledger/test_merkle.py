"""The tree against the published vectors of RFC 6962, and every proof of every size up to 64."""

from __future__ import annotations

import hashlib
from functools import cache

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from stoker.ledger import merkle
from stoker.ledger.merkle import Frontier, NodeName

# Certificate Transparency's reference data for RFC 6962: eight leaves, the root of every prefix.
LEAVES = tuple(
    bytes.fromhex(text)
    for text in (
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    )
)
ROOTS = (
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
)
INCLUSION = (
    (0, 1, ()),
    (
        0,
        8,
        (
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ),
    ),
    (
        5,
        8,
        (
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ),
    ),
    (2, 3, ("fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",)),
    (
        1,
        5,
        (
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ),
    ),
)
CONSISTENCY = (
    (1, 1, ()),
    (
        1,
        8,
        (
            "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
        ),
    ),
    (
        6,
        8,
        (
            "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
            "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        ),
    ),
    (
        2,
        5,
        (
            "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
            "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        ),
    ),
)


class Nodes:
    """A tree grown leaf by leaf, its complete subtrees kept."""

    def __init__(self) -> None:
        self.frontier = Frontier()
        self.stored: dict[NodeName, bytes] = {}
        self.roots = [merkle.EMPTY_ROOT]
        self.leaves: list[bytes] = []

    def append(self, entry: bytes) -> None:
        leaf = merkle.leaf_hash(entry)
        for name, value in self.frontier.append(leaf):
            assert name not in self.stored
            self.stored[name] = value
        self.leaves.append(leaf)
        self.roots.append(self.frontier.root())

    @classmethod
    def of(cls, entries: tuple[bytes, ...]) -> Nodes:
        nodes = cls()
        for entry in entries:
            nodes.append(entry)
        return nodes


def by_definition(leaves: tuple[bytes, ...]) -> bytes:
    """MTH of RFC 6962 section 2.1, word for word."""
    if not leaves:
        return hashlib.sha256().digest()
    if len(leaves) == 1:
        return leaves[0]
    split = 1
    while split * 2 < len(leaves):
        split *= 2
    return hashlib.sha256(b"\x01" + by_definition(leaves[:split]) + by_definition(leaves[split:])).digest()


@cache
def sixty_four() -> Nodes:
    return Nodes.of(tuple(bytes([number]) * number for number in range(64)))


def test_roots_are_those_of_the_reference() -> None:
    assert [root.hex() for root in Nodes.of(LEAVES).roots] == list(ROOTS)


@pytest.mark.parametrize(("index", "size", "proof"), INCLUSION)
def test_inclusion_proofs_are_those_of_the_reference(index: int, size: int, proof: tuple[str, ...]) -> None:
    nodes = Nodes.of(LEAVES)
    made = merkle.inclusion_proof(index, size, nodes.stored.__getitem__)
    assert tuple(step.hex() for step in made) == proof
    assert merkle.inclusion_holds(nodes.leaves[index], index, size, made, bytes.fromhex(ROOTS[size]))


@pytest.mark.parametrize(("old", "new", "proof"), CONSISTENCY)
def test_consistency_proofs_are_those_of_the_reference(old: int, new: int, proof: tuple[str, ...]) -> None:
    made = merkle.consistency_proof(old, new, Nodes.of(LEAVES).stored.__getitem__)
    assert tuple(step.hex() for step in made) == proof
    assert merkle.consistency_holds(old, new, bytes.fromhex(ROOTS[old]), bytes.fromhex(ROOTS[new]), made)


def test_roots_of_every_size_are_those_of_the_definition() -> None:
    nodes = sixty_four()
    for size in range(65):
        assert nodes.roots[size] == by_definition(tuple(nodes.leaves[:size]))


def test_every_inclusion_proof_up_to_64_leaves_holds_and_no_other_place_does() -> None:
    nodes = sixty_four()
    for size in range(1, 65):
        for index in range(size):
            proof = merkle.inclusion_proof(index, size, nodes.stored.__getitem__)
            leaf, root = nodes.leaves[index], nodes.roots[size]
            assert merkle.inclusion_holds(leaf, index, size, proof, root)
            other = (index + 1) % size
            assert other == index or not merkle.inclusion_holds(leaf, other, size, proof, root)
            assert not merkle.inclusion_holds(leaf, index, size, proof, nodes.roots[size - 1])


def test_every_consistency_proof_up_to_64_leaves_holds_and_no_other_root_does() -> None:
    nodes = sixty_four()
    for new in range(1, 65):
        for old in range(1, new + 1):
            proof = merkle.consistency_proof(old, new, nodes.stored.__getitem__)
            assert merkle.consistency_holds(old, new, nodes.roots[old], nodes.roots[new], proof)
            assert not merkle.consistency_holds(old, new, nodes.roots[old - 1], nodes.roots[new], proof)
            if new > old:
                assert not merkle.consistency_holds(old, new, nodes.roots[old], nodes.roots[new - 1], proof)


@pytest.mark.parametrize("size", [2, 5, 8, 13, 37, 64])
def test_a_proof_with_a_changed_missing_or_added_step_does_not_hold(size: int) -> None:
    nodes = sixty_four()
    for index in range(size):
        proof = merkle.inclusion_proof(index, size, nodes.stored.__getitem__)
        leaf, root = nodes.leaves[index], nodes.roots[size]
        for wrong in _spoiled(proof):
            assert not merkle.inclusion_holds(leaf, index, size, wrong, root)
    for old in range(1, size):
        proof = merkle.consistency_proof(old, size, nodes.stored.__getitem__)
        for wrong in _spoiled(proof):
            assert not merkle.consistency_holds(old, size, nodes.roots[old], nodes.roots[size], wrong)


def _spoiled(proof: tuple[bytes, ...]) -> list[tuple[bytes, ...]]:
    changed = [
        (*proof[:place], bytes([step[0] ^ 1]) + step[1:], *proof[place + 1 :])
        for place, step in enumerate(proof)
    ]
    return [*changed, proof[:-1], (*proof, bytes(32)), (bytes(32), *proof)]


def test_the_empty_log_is_consistent_with_every_log_by_an_empty_proof_only() -> None:
    root = sixty_four().roots[7]
    assert merkle.consistency_holds(0, 7, merkle.EMPTY_ROOT, root, ())
    assert not merkle.consistency_holds(0, 7, merkle.EMPTY_ROOT, root, (root,))
    assert not merkle.consistency_holds(0, 7, root, root, ())
    assert not merkle.consistency_holds(7, 6, root, root, ())


@pytest.mark.parametrize(("index", "size"), [(0, 0), (3, 3), (-1, 3)])
def test_no_inclusion_proof_outside_the_tree(index: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"no leaf {index}"):
        merkle.inclusion_proof(index, size, sixty_four().stored.__getitem__)
    assert not merkle.inclusion_holds(bytes(32), index, size, (), bytes(32))


@pytest.mark.parametrize(("old", "new"), [(0, 3), (4, 3), (-1, 3)])
def test_no_consistency_proof_outside_the_log(old: int, new: int) -> None:
    with pytest.raises(ValueError, match=f"from {old} to {new}"):
        merkle.consistency_proof(old, new, sixty_four().stored.__getitem__)


def test_a_leaf_cannot_pass_for_a_node() -> None:
    left, right = merkle.leaf_hash(b"a"), merkle.leaf_hash(b"b")
    assert merkle.leaf_hash(left + right) != merkle.node_hash(left, right)


def test_appending_to_a_million_leaves_keeps_twenty_hashes_at_most() -> None:
    size = 999_999
    names = merkle.covering(0, size)
    assert len(names) == size.bit_count() <= 20
    frontier = Frontier(size, [bytes([place]) * 32 for place in range(len(names))])
    assert frontier.names() == names
    made = frontier.append(merkle.leaf_hash(b"the millionth"))
    assert [name.level for name, _ in made] == list(range(7))  # 999,999 ends in six one bits
    assert len(frontier.hashes) == (1_000_000).bit_count()


class GrowingTree(RuleBasedStateMachine):
    """A tree that grows at random, against the definition; proofs between any two of its states."""

    sizes: Bundle[int] = Bundle("sizes")

    def __init__(self) -> None:
        super().__init__()
        self.nodes = Nodes()

    @rule(target=sizes, entries=st.lists(st.binary(max_size=40), min_size=1, max_size=9))
    def append(self, entries: list[bytes]) -> int:
        for entry in entries:
            self.nodes.append(entry)
        return self.nodes.frontier.size

    @rule(size=sizes, data=st.data())
    def prove_inclusion(self, size: int, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, size - 1))
        proof = merkle.inclusion_proof(index, size, self.nodes.stored.__getitem__)
        root = by_definition(tuple(self.nodes.leaves[:size]))
        assert merkle.inclusion_holds(self.nodes.leaves[index], index, size, proof, root)
        assert not merkle.inclusion_holds(merkle.leaf_hash(b"never appended" * 9), index, size, proof, root)

    @rule(one=sizes, other=sizes)
    def prove_consistency(self, one: int, other: int) -> None:
        old, new = sorted((one, other))
        proof = merkle.consistency_proof(old, new, self.nodes.stored.__getitem__)
        old_root = by_definition(tuple(self.nodes.leaves[:old]))
        new_root = by_definition(tuple(self.nodes.leaves[:new]))
        assert merkle.consistency_holds(old, new, old_root, new_root, proof)
        assert not merkle.consistency_holds(old, new, merkle.leaf_hash(old_root), new_root, proof)

    @invariant()
    def root_is_that_of_the_definition(self) -> None:
        assert self.nodes.frontier.root() == by_definition(tuple(self.nodes.leaves))

    @invariant()
    def the_frontier_is_what_is_stored(self) -> None:
        frontier = self.nodes.frontier
        assert frontier.hashes == [self.nodes.stored[name] for name in frontier.names()]


TestGrowingTree = GrowingTree.TestCase
TestGrowingTree.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
