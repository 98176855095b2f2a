"""Build a `tokenizers.Tokenizer` straight from the vocabulary inside a GGUF file.

Byte-level BPE ("gpt2") and SentencePiece BPE ("llama"), as llama.cpp reads them. Where the
original model's tokenizer normalizes or ignores merges, so does this one.
"""

from typing import Any

from tokenizers import Tokenizer, models, processors

from headrace.checkpoint.gguf import GGUFFile
from headrace.errors import CheckpointError
from headrace.text import sentencepiece
from headrace.text.byte_level import PRE_TOKENIZERS, byte_level

BOS_BY_DEFAULT = {"llama-bpe", "llama-v3", "llama3"}
"""These begin with BOS, and prefer a whole-word token to its merges."""


def build_backend(file: GGUFFile) -> Tokenizer:
    """Raises CheckpointError naming the key that is missing, unknown or inconsistent."""
    model = _field(file, "model", str)
    builders = {"gpt2": _byte_level, "llama": _sentencepiece}
    if model not in builders:
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.model {model!r} is not supported, "
            f"only {', '.join(builders)}"
        )
    tokens = _field(file, "tokens", list)
    try:
        backend = builders[model](file, tokens)
    except (CheckpointError, MemoryError):
        raise
    except Exception as error:  # The library raises no narrower class.
        raise CheckpointError(f"{file.path}: unusable tokenizer: {error}") from None
    begins_with_bos = model == "llama" or file.metadata.get("tokenizer.ggml.pre") in BOS_BY_DEFAULT
    _add_ends(backend, file, tokens, begins_with_bos)
    return backend


def _field(file: GGUFFile, name: str, kind: type, default: Any = None) -> Any:
    key = f"tokenizer.ggml.{name}"
    value = file.metadata.get(key, default)
    if not isinstance(value, kind):
        raise CheckpointError(
            f"{file.path}: {key} must be of type {kind.__name__}, found {value!r:.80}"
        )
    return value


def _byte_level(file: GGUFFile, tokens: list[str]) -> Tokenizer:
    name = _field(file, "pre", str, "default")
    if name not in PRE_TOKENIZERS:
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.pre {name!r} is not supported, "
            f"only {', '.join(PRE_TOKENIZERS)}"
        )
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in _field(file, "merges", list)]
    model = models.BPE(vocabulary, merges, ignore_merges=name in BOS_BY_DEFAULT)
    backend = byte_level(model, name)
    sentencepiece.add_tokens(backend, tokens, _field(file, "token_type", list, []))
    return backend


def _sentencepiece(file: GGUFFile, tokens: list[str]) -> Tokenizer:
    scores = _field(file, "scores", list)
    if len(scores) != len(tokens):
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.scores has {len(scores)} entries for {len(tokens)} tokens"
        )
    return sentencepiece.build(
        sentencepiece.SentencePieceModel(
            source=f"{file.path}: tokenizer.ggml.tokens",
            pieces=tokens,
            scores=scores,
            types=_field(file, "token_type", list, []),
            algorithm=sentencepiece.BPE,
            adds_space=_field(file, "add_space_prefix", bool, True),
            removes_spaces=False,
        )
    )


def _add_ends(backend: Tokenizer, file: GGUFFile, tokens: list[str], begins_with_bos: bool) -> None:
    """BOS before and EOS after every text, as the file's flags say."""
    template, special = ["$A"], []
    for name, default, position in (("bos", begins_with_bos, 0), ("eos", False, 2)):
        if not _field(file, f"add_{name}_token", bool, default):
            continue
        token_id = _field(file, f"{name}_token_id", int)
        if not 0 <= token_id < len(tokens):
            raise CheckpointError(f"{file.path}: tokenizer.ggml.{name}_token_id is out of range")
        template.insert(position, name)
        special.append({"id": name, "ids": [token_id], "tokens": [tokens[token_id]]})
    if special:
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=special
        )
