import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from headrace.engine.blocks import BlockPool, chain_digest, root_digest


def digest(number: int) -> bytes:
    return chain_digest(root_digest(""), [number])


def test_digest_depends_on_salt_parent_tokens_and_their_order() -> None:
    root = root_digest("")
    first = chain_digest(root, [1, 2])
    others = [
        chain_digest(root_digest("tenant"), [1, 2]),
        chain_digest(root, [2, 1]),
        chain_digest(root, [1, 258]),
        chain_digest(first, [1, 2]),
    ]
    assert len({first, *others}) == 5
    assert first == chain_digest(root_digest(""), [1, 2])


def test_unused_blocks_go_before_cached_ones_and_the_oldest_cached_one_first() -> None:
    pool = BlockPool(3)
    first, second = pool.allocate(), pool.allocate()
    pool.insert(first, digest(1))
    pool.insert(second, digest(2))
    pool.release([first])
    pool.release([second])
    assert pool.num_free == 3
    third = pool.allocate()
    assert third not in (first, second)
    assert pool.num_cached == 2
    assert pool.allocate() == first
    assert pool.lookup(digest(1)) is None
    assert pool.lookup(digest(2)) == second


def test_the_end_of_a_table_is_evicted_before_its_beginning() -> None:
    pool = BlockPool(2)
    table = [pool.allocate(), pool.allocate()]
    for number, block in enumerate(table):
        pool.insert(block, digest(number))
    pool.release(table)
    assert pool.allocate() == table[1]


def test_a_hit_makes_a_block_recently_used() -> None:
    pool = BlockPool(2)
    blocks = [pool.allocate(), pool.allocate()]
    for number, block in enumerate(blocks):
        pool.insert(block, digest(number))
        pool.release([block])
    pool.share(blocks[0])
    pool.release([blocks[0]])
    assert pool.allocate() == blocks[1]


def test_the_same_content_is_cached_once() -> None:
    pool = BlockPool(2)
    first, second = pool.allocate(), pool.allocate()
    pool.insert(first, digest(1))
    pool.insert(second, digest(1))
    pool.release([second])
    assert pool.lookup(digest(1)) == first
    pool.check([[first]])


def test_forgotten_blocks_are_never_hit() -> None:
    pool = BlockPool(1)
    block = pool.allocate()
    pool.insert(block, digest(1))
    pool.forget([block])
    assert pool.lookup(digest(1)) is None
    pool.release([block])
    pool.check([])


def test_check_notices_a_leak_and_a_double_owner() -> None:
    pool = BlockPool(2)
    block = pool.allocate()
    with pytest.raises(AssertionError, match="leak"):
        pool.check([])
    with pytest.raises(AssertionError, match="leak"):
        pool.check([[block], [block]])


class PoolMachine(RuleBasedStateMachine):
    """Random tables over a small pool, against a model that says what a hit must contain."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(5)
        self.tables: list[list[int]] = []
        self.content: dict[int, int] = {}

    @precondition(lambda self: self.pool.num_free)
    @rule(number=st.integers(0, 7))
    def add_table(self, number: int) -> None:
        block = self.pool.lookup(digest(number))
        if block is None:
            block = self.pool.allocate()
            self.content[block] = number
            self.pool.insert(block, digest(number))
        else:
            assert self.content[block] == number
            self.pool.share(block)
        self.tables.append([block])

    @precondition(lambda self: self.pool.num_free and self.tables)
    @rule(index=st.integers(0, 100))
    def grow_table(self, index: int) -> None:
        block = self.pool.allocate()
        self.content[block] = -1
        self.tables[index % len(self.tables)].append(block)

    @precondition(lambda self: self.tables)
    @rule(index=st.integers(0, 100), distrust=st.booleans())
    def drop_table(self, index: int, distrust: bool) -> None:
        table = self.tables.pop(index % len(self.tables))
        if distrust:
            self.pool.forget(table)
        self.pool.release(table)

    @invariant()
    def is_consistent(self) -> None:
        self.pool.check(self.tables)
        in_use = len({block for table in self.tables for block in table})
        assert self.pool.num_free == 5 - in_use


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=30)
