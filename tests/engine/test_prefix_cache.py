import pytest

from headrace.engine.fake import GENERATED
from tests.engine.harness import Engine, prompt
from tests.engine.oracle import expected, expected_prompt_logprobs, make_add


def test_identical_prefixes_that_arrive_together_are_computed_once() -> None:
    engine = Engine(num_blocks=400, block_size=16, budget=512, max_num_seqs=64)
    adds = [make_add(i, prompt(1000) + [5000 + i], max_tokens=4) for i in range(32)]
    for add in adds:
        engine.add(add)
    engine.run()
    for add in adds:
        engine.assert_as_alone(add)
    # Each has 1 token of its own and 8 after the last full block, and computes 3 new ones.
    assert engine.executor.num_computed_tokens == 1001 + 31 * 9 + 32 * 3
    assert engine.last(31).timings is not None
    assert engine.last(31).timings.num_cached_tokens == 992


def test_a_different_request_does_not_wait_behind_identical_ones() -> None:
    engine = Engine(num_blocks=400, block_size=16, budget=512, max_num_seqs=64)
    for i in range(4):
        engine.add(make_add(i, prompt(200)))
    engine.add(make_add(9, prompt(100, first=7000)))
    assert [row.token_ids[0] for row in engine.step().started] == [0, 7000]
    engine.run()


def test_generated_tokens_are_shared_while_their_owner_runs() -> None:
    engine = Engine()
    engine.add(make_add(1, prompt(6), max_tokens=40))
    for _ in range(20):
        engine.step()
    follower = make_add(2, prompt(6) + engine.output(1), max_tokens=3)
    engine.add(follower)
    plan = engine.step()
    assert plan.starts[-1] == 24
    engine.run()
    engine.assert_as_alone(follower)


def test_an_answer_is_computed_again_as_part_of_a_prompt_where_that_differs() -> None:
    engine = Engine(distinguishes_prompts=True)
    engine.add(make_add(1, prompt(6), max_tokens=40))
    engine.run()
    follower = make_add(2, prompt(6) + engine.output(1), max_tokens=3)
    engine.add(follower)
    assert engine.step().starts == [4]  # the block that prompt and answer share is computed again
    engine.run()
    engine.assert_as_alone(follower)


def test_a_resumed_request_finds_its_own_kind_of_tokens() -> None:
    engine = Engine(distinguishes_prompts=True)
    add = make_add(1, prompt(6), max_tokens=40)
    engine.add(add)
    engine.run()
    resumed = make_add(2, prompt(6), max_tokens=40, output_ids=engine.output(1)[:30])
    engine.add(resumed)
    assert engine.step().starts == [32]
    engine.run()
    engine.assert_as_alone(resumed)


def test_no_step_crosses_the_end_of_a_prompt_where_that_matters() -> None:
    output_ids = expected(make_add(1, prompt(10), max_tokens=20), 1000, GENERATED)[0][:15]
    engine = Engine(distinguishes_prompts=True)
    engine.add(make_add(1, prompt(10), max_tokens=20, output_ids=output_ids))
    first, second = engine.step(), engine.step()
    assert (first.counts, first.num_samples) == ([10], [0])
    assert (second.starts, second.counts, second.num_samples) == ([10], [15], [1])


def test_the_last_token_is_computed_even_if_all_are_cached() -> None:
    engine = Engine()
    for request_id in (1, 2):
        engine.add(make_add(request_id, prompt(16), max_tokens=1))
        plan = engine.step()
    assert plan.starts == [12]
    engine.assert_as_alone(make_add(2, prompt(16), max_tokens=1))


def test_salts_share_nothing_and_caching_can_be_off() -> None:
    for salts, caching in ((("a", "b"), True), (("a", "a"), False)):
        engine = Engine(prefix_caching=caching)
        for request_id, salt in enumerate(salts):
            engine.add(make_add(request_id, prompt(16), max_tokens=1, cache_salt=salt))
        engine.run()
        assert engine.executor.num_computed_tokens == 32
        assert engine.scheduler.stats().prefix_cache_hits == 0


@pytest.mark.parametrize("length", [1, 8, 50])
def test_prompt_logprobs_cover_the_prompt_whatever_is_cached(length: int) -> None:
    engine = Engine(budget=16)
    engine.add(make_add(1, prompt(length), max_tokens=2))
    engine.run()
    engine.add(make_add(2, prompt(length), max_tokens=3, prompt_logprobs=True))
    engine.run()
    assert engine.events[2][0].prompt_logprobs == expected_prompt_logprobs(prompt(length))
    assert all(event.prompt_logprobs is None for event in engine.events[2][1:])
    engine.assert_as_alone(make_add(2, prompt(length), max_tokens=3))
