from headrace.engine.request import Request
from headrace.engine.speculation.acceptance import Acceptance
from headrace.engine.speculation.ngram_index import NgramIndex
from headrace.engine.speculation.prompt_lookup import PromptLookup
from headrace.engine.speculation.state import SpeculationState
from tests.engine.oracle import make_add


def request_of(prompt_ids: list[int], salt: str = "") -> Request:
    request = Request(make_add(1, prompt_ids, cache_salt=salt), 0, 0.0, 4)
    state = SpeculationState(NgramIndex(request.token_ids), Acceptance((0.5,)))
    request.speculation = state
    return request


def draft(lookup: PromptLookup, request: Request, count: int = 4) -> list[int]:
    proposal = lookup.propose(request, count)
    return proposal.token_ids if proposal else []


def test_drafts_what_followed_in_the_request_itself() -> None:
    request = request_of([1, 2, 3, 4, 5, 6, 7, 8, 2, 3])
    lookup = PromptLookup()
    assert draft(lookup, request) == [4, 5, 6, 7]
    request.token_ids.append(9)
    assert draft(lookup, request) == []
    request.token_ids += [3, 4]
    assert draft(lookup, request, 2) == [5, 6]


def test_the_longest_match_wins() -> None:
    lookup = PromptLookup()
    earlier = request_of([50])
    earlier.token_ids += [1, 2, 3, 4, 70, 71]
    lookup.finish(earlier)
    assert draft(lookup, request_of([3, 4, 80, 1, 2, 3, 4])) == [70, 71]
    assert draft(lookup, request_of([2, 3, 4, 80, 9, 2, 3, 4]), 2) == [80, 9]  # equal: its own
    assert draft(lookup, request_of([1, 2, 3, 4, 80, 9, 1, 2, 3, 4])) == [80, 9, 1, 2]


def test_outputs_serve_others_of_the_same_salt_only() -> None:
    lookup = PromptLookup()
    earlier = request_of([8, 9, 10], "a")
    earlier.token_ids += [11, 12]
    lookup.finish(earlier)
    assert draft(lookup, request_of([4, 9, 10], "a")) == [11, 12]
    assert draft(lookup, request_of([4, 9, 10], "b")) == []
    assert draft(lookup, request_of([4, 9, 10])) == []


def test_a_match_that_goes_on_gets_longer() -> None:
    text = list(range(40))
    request = request_of([*text, 60, 0, 1])
    lookup = PromptLookup()
    kinds = []
    for token in range(2, 30):
        proposal = lookup.propose(request, 4)
        assert proposal is not None
        assert proposal.token_ids == text[token : token + 4]
        kinds.append(proposal.kinds[0])
        assert request.speculation is not None
        request.speculation.observe(proposal.token_ids, proposal.kinds, len(request.token_ids))
        request.token_ids.append(token)
    assert kinds == sorted(kinds) and kinds[-1] == 7
