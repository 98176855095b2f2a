from headrace.engine.speculation import corpus
from headrace.engine.speculation.corpus import (
    END,
    GENERATION_TOKENS,
    MAX_OUTPUT_TOKENS,
    Corpus,
)
from headrace.engine.speculation.ngram_index import keys


def finds(corpus: Corpus, suffix: list[int]) -> bool:
    """Its last two tokens, or more."""
    for generation in corpus.generations:
        generation.extend()
    return any(generation.match(suffix, keys(suffix), 2) for generation in corpus.generations)


def test_outputs_are_separate() -> None:
    shared = Corpus()
    shared.add([1, 2, 3])
    shared.add([4, 5])
    assert shared.generations[0].text == [1, 2, 3, END, 4, 5, END]
    assert finds(shared, [1, 2])
    assert not finds(shared, [3, 4])


def test_the_oldest_half_is_forgotten() -> None:
    shared = Corpus()
    outputs = [[number, number + 1, 5] for number in range(10, 300_000, 10)]
    for output in outputs:
        shared.add(output)
        assert finds(shared, output[:2])
    held = sum(len(generation.text) for generation in shared.generations)
    assert GENERATION_TOKENS < held < 2 * GENERATION_TOKENS + 10
    assert not finds(shared, outputs[0][:2])


def test_an_endless_output_is_cut() -> None:
    shared = corpus.Corpus()
    shared.add(list(range(3 * MAX_OUTPUT_TOKENS)))
    shared.add([7, 7])
    assert len(shared.generations[0].text) == MAX_OUTPUT_TOKENS + 4
