"""The ledger against a cache that really holds token ids."""

import random

from headrace.runner.batch import BlockTables
from headrace.runner.drafting.ledger import Ledger
from headrace.types import RowOutput, SamplingParams, StepPlan
from tests.runner.rows import row_start

SIZE = 4
PARAMS = SamplingParams(max_tokens=9)


def step(
    tables: BlockTables, ledger: Ledger, start: int, token_ids: list[int], blocks: list[int],
    sampled: list[int], *, prompt: list[int] | None = None, num_samples: int = 1, row: int = 0,
) -> None:  # fmt: skip
    """One row computes `token_ids` from `start` on, and samples."""
    plan = StepPlan(
        ended=[], started=[row_start(row, PARAMS, prompt, len(prompt))] if prompt else [],
        rows=[row], starts=[start], counts=[len(token_ids)], token_ids=token_ids,
        new_blocks=[blocks], num_samples=[num_samples],
    )  # fmt: skip
    tables.update(plan)
    ledger.follow(plan, [RowOutput(token_ids=sampled)])


def make() -> tuple[BlockTables, Ledger]:
    tables = BlockTables(3, 8)
    return tables, Ledger(tables, num_blocks=16, block_size=SIZE)


def test_everything_is_missing_until_it_is_held() -> None:
    tables, ledger = make()
    step(tables, ledger, 0, [1, 2, 3, 4, 5], [7, 3], [6], prompt=[1, 2, 3, 4, 5])
    assert ledger.missing(0, 6) == 0
    assert ledger.token_ids(0, 0, 9) == [1, 2, 3, 4, 5, 6]
    ledger.hold(0, 5)
    assert ledger.missing(0, 6) == 5


def test_right_drafts_count_and_wrong_ones_do_not() -> None:
    for chosen, held in (([7, 8, 9], 4), ([7, 5], 3), ([4], 2)):
        tables, ledger = make()
        step(tables, ledger, 0, [1], [0, 1], [2], prompt=[1])
        ledger.hold(0, 2)
        for draft in (7, 8):
            ledger.hold_ahead(0, draft)
        step(tables, ledger, 1, [2, 7, 8], [], chosen, num_samples=3)
        step(tables, ledger, 1 + len(chosen), chosen[-1:], [], [6])  # nobody asks for drafts
        assert ledger.missing(0, 9) == held


def test_a_shared_block_is_found_and_a_reused_one_is_empty() -> None:
    tables, ledger = make()
    prompt = [1, 2, 3, 4, 5]
    step(tables, ledger, 0, prompt, [7, 3], [6], prompt=prompt)
    ledger.hold(0, 6)
    step(tables, ledger, 4, [5], [7, 9], [6], prompt=prompt, row=1)
    assert ledger.missing(1, 6) == 4
    step(tables, ledger, 0, prompt, [3, 7], [6], prompt=prompt, row=2)
    assert ledger.missing(2, 6) == 0


def test_forced_tokens_are_known() -> None:
    tables, ledger = make()
    step(tables, ledger, 0, [1, 2], [0, 1], [3], prompt=[1, 2])
    step(tables, ledger, 2, [3, 8, 8, 5], [], [4], num_samples=2)  # 8, 8 were forced, 5 drafted
    assert ledger.token_ids(0, 0, 9) == [1, 2, 3, 8, 8, 4]


def test_whatever_happens_it_claims_nothing_that_is_not_there() -> None:
    """Requests with random shared prefixes come and go over few blocks."""
    chance = random.Random(0)
    tables, ledger = make()
    content: dict[int, list[int]] = {}
    num_found = 0
    for _ in range(500):
        row = chance.randrange(3)
        prompt = [chance.randrange(2) for _ in range(chance.randrange(1, 20))]
        blocks = chance.sample(range(16), 6)
        hits = 0
        for block, tokens in list(content.items()):  # the first full block may be cached
            if tokens == prompt[:SIZE] and len(prompt) > SIZE and not hits:
                blocks = [block, *(b for b in blocks if b != block)]
                hits = SIZE
        for block in blocks[hits // SIZE :]:
            content.pop(block, None)
        step(tables, ledger, hits, prompt[hits:], blocks, [1], prompt=prompt, row=row)
        missing = ledger.missing(row, len(prompt))
        assert missing <= hits
        assert not missing or content[blocks[0]] == prompt[:SIZE]
        num_found += missing > 0
        held = chance.randrange(len(prompt) + 1)
        ledger.hold(row, max(held, missing))
        if held >= SIZE and not hits:
            content[blocks[0]] = prompt[:SIZE]
    assert num_found > 20
