"""The embedded model's tokenizer, ours and transformers' reading of the same file."""

from typing import Any

import pytest
import tokenizers

from headrace.checkpoint.checkpoint import Checkpoint, open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.text.tokenizer import Tokenizer, load_tokenizer

CORPUS = [
    "Hello, world!",
    " leading and trailing ",
    "It's what they'd've SAID, isn't IT?",
    "def f(x):\n    return x ** 2  # square\n\n\tpass\n",
    "tabs\t\tand\r\nline ends\n\n\nhere",
    "many     spaces      here",
    "π ≈ 3.14159, 1234567890 and ⅓ or ①",
    "naïve café — déjà vu… “quotes”",
    "Привет, мир! שלום עולם مرحبا",
    "日本語のテキストと한국어 텍스트 และภาษาไทย",
    "🎉👩‍👩‍👧‍👦🇩🇪 emoji 😀😀",
    "zero\u200bwidth and\u00a0nbsp and \u2028 separators",
    "https://example.org/a?b=c&d=[1,2]#frag",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|im_end|><|im_end|> text<|endoftext|>",
    "\x00\x01\x7f control",
    "{}[]()<>!@#$%^&*_+-=~`|\\/",
]


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    return CORPUS


@pytest.fixture(scope="session")
def embedded_checkpoint() -> Checkpoint:
    return open_checkpoint(embedded_model())


@pytest.fixture(scope="session")
def embedded_tokenizer(embedded_checkpoint: Checkpoint) -> Tokenizer:
    return load_tokenizer(embedded_checkpoint)


@pytest.fixture(scope="session")
def reference_tokenizer() -> Any:
    """transformers' conversion of the embedded model; takes some seconds.

    transformers ignores `tokenizer.ggml.pre`; for "smollm" llama.cpp first cuts out each character
    of category N, then splits as GPT-2 does.
    """
    from tokenizers import Regex, pre_tokenizers
    from transformers import AutoTokenizer

    path = embedded_model()
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    return tokenizer


def train(model: Any, pre_tokenizer: Any, trainer: Any) -> tokenizers.Tokenizer:
    """A tiny tokenizer of the given kind, learned from the corpus."""
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizer
    backend.train_from_iterator(CORPUS * 3, trainer)
    return backend


@pytest.fixture(scope="session")
def byte_level_backend() -> tokenizers.Tokenizer:
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend = train(tokenizers.models.BPE(), pre_tokenizer, trainer)
    backend.decoder = tokenizers.decoders.ByteLevel()
    return backend


@pytest.fixture(scope="session")
def unigram_backend() -> tokenizers.Tokenizer:
    """SentencePiece's Unigram with a token for each byte."""
    pieces = [(f"<0x{byte:02X}>", 0.0) for byte in range(256)]
    words = ["▁", "▁He", "llo", "▁wor", "ld", "▁text", "a", "e", "l", "o", "é", "日"]
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), *pieces, *((w, -2.0 - len(w)) for w in words)]
    model = tokenizers.models.Unigram(vocabulary, unk_id=0, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    backend.add_special_tokens(["<s>"])
    backend.decoder = tokenizers.decoders.Sequence(
        [
            tokenizers.decoders.Replace("▁", " "),
            tokenizers.decoders.ByteFallback(),
            tokenizers.decoders.Fuse(),
            tokenizers.decoders.Strip(" ", 1, 0),
        ]
    )
    return backend
