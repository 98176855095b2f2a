from pathlib import Path

import pytest

from headrace.bench.errors import BenchError
from headrace.bench.prompts import FilePrompts, SyntheticPrompts


def num_words_and_stops(text: str) -> int:
    return len(text.split()) + text.count(".")


@pytest.mark.parametrize("num_tokens", [2, 10, 11, 64, 500])
def test_length_in_words_and_full_stops(num_tokens: int) -> None:
    text = SyntheticPrompts(num_tokens, 0, seed=1)(5)
    assert num_tokens <= num_words_and_stops(text) <= num_tokens + 1


def test_prompts_differ_and_repeat_by_seed() -> None:
    prompts = SyntheticPrompts(32, 0, seed=1)
    assert len({prompts(number) for number in range(200)}) == 200
    assert prompts(3) == SyntheticPrompts(32, 0, seed=1)(3)
    assert prompts(3) != SyntheticPrompts(32, 0, seed=2)(3)


def test_the_shared_prefix_is_shared_and_no_more() -> None:
    prompts = SyntheticPrompts(32, 100, seed=1)
    a, b = prompts(0).split(), prompts(1).split()
    common = next(i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    assert 85 <= common <= 95  # 100 tokens: 91 words and 9 or 10 full stops; then "The" is common


def test_lines_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "prompts"
    file.write_text('Plain "text"\n\n{"prompt": "one"}\n{"prompt": [1, 2]}\n')
    prompts = FilePrompts.read(file, "completions")
    assert [prompts(number) for number in range(4)] == [
        'Plain "text"', "one", [1, 2], 'Plain "text"',
    ]  # fmt: skip
    file.write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n{"prompt": "one"}')
    chat = FilePrompts.read(file, "chat")
    assert [chat(0), chat(1)] == [[{"role": "user", "content": "Hi"}], "one"]


@pytest.mark.parametrize(
    ("content", "api", "message"),
    [
        ("ok\n{broken", "completions", "prompts:2: "),
        ('{"messages": []}', "completions", 'needs "prompt"'),
        ('{"prompt": [1, 2]}', "chat", 'needs "messages"'),
        ('{"text": "x"}', "chat", 'needs "messages"'),
        ("\n \n", "chat", "no prompt"),
    ],
)
def test_unusable_files_are_named(tmp_path: Path, content: str, api: str, message: str) -> None:
    file = tmp_path / "prompts"
    file.write_text(content)
    with pytest.raises(BenchError, match=message):
        FilePrompts.read(file, api)  # type: ignore[arg-type]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="nowhere"):
        FilePrompts.read(tmp_path / "nowhere", "chat")
