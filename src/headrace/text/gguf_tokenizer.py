"""Build a `tokenizers.Tokenizer` straight from the vocabulary inside a GGUF file.

Byte-level BPE ("gpt2") and SentencePiece BPE ("llama"), as llama.cpp reads them. Where the
original model's tokenizer normalizes or ignores merges, so does this one.
"""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, processors
from tokenizers import pre_tokenizers as pre

from headrace.checkpoint.gguf import GGUFFile
from headrace.errors import CheckpointError
from headrace.text.detokenize import SPACE

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
"""Values of tokenizer.ggml.token_type."""

MAX_TOKEN_LENGTH = 1024
"""Of SentencePiece tokens, because every way to cut one in two is tried."""

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
PUNCTUATION_AND_SPACES = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _split(digits: str) -> pre.PreTokenizer:
    """The split of tiktoken's cl100k family; the members differ in how digits group."""
    pattern = f"{CONTRACTIONS}|{WORDS}|{digits}|{PUNCTUATION_AND_SPACES}"
    return pre.Sequence(
        [
            pre.Split(Regex(pattern), behavior="isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _gpt2() -> pre.PreTokenizer:
    return pre.ByteLevel(add_prefix_space=False)


def _single_digits() -> pre.PreTokenizer:
    return pre.Sequence([pre.Digits(individual_digits=True), _gpt2()])


def _llama3() -> pre.PreTokenizer:
    return _split(r"\p{N}{1,3}")


def _qwen2() -> pre.PreTokenizer:
    return _split(r"\p{N}")


PRE_TOKENIZERS = {
    "default": _gpt2,
    "gpt-2": _gpt2,
    "smollm": _single_digits,
    "starcoder": _single_digits,
    "refact": _single_digits,
    "codeshell": _single_digits,
    "llama-bpe": _llama3,
    "llama-v3": _llama3,
    "llama3": _llama3,
    "qwen2": _qwen2,
    "deepseek-r1-qwen": _qwen2,
}
"""By tokenizer.ggml.pre; without that key it is "default"."""

BOS_BY_DEFAULT = {"llama-bpe", "llama-v3", "llama3"}
"""These begin with BOS, and prefer a whole-word token to its merges."""
NFC = {"qwen2"}


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
    _add_tokens(backend, tokens, _field(file, "token_type", list, []))
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
    backend = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=name in BOS_BY_DEFAULT))
    if name in NFC:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = PRE_TOKENIZERS[name]()
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(file: GGUFFile, tokens: list[str]) -> Tokenizer:
    """BPE by scores: the pair whose merged token scores highest is merged first."""
    scores = _field(file, "scores", list)
    if len(scores) != len(tokens):
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.scores has {len(scores)} entries for {len(tokens)} tokens"
        )
    if (length := max(map(len, tokens), default=0)) > MAX_TOKEN_LENGTH:
        raise CheckpointError(
            f"{file.path}: tokenizer.ggml.tokens has a token of {length} characters, "
            f"at most {MAX_TOKEN_LENGTH} are allowed"
        )
    vocabulary = {token: token_id for token_id, token in enumerate(tokens)}
    types = _field(file, "token_type", list, [])
    unknown = next((t for t, kind in zip(tokens, types, strict=False) if kind == UNKNOWN), None)
    backend = Tokenizer(
        models.BPE(
            vocabulary,
            _merges_by_score(vocabulary, scores),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    spaces: list[normalizers.Normalizer] = [normalizers.Replace(" ", SPACE)]
    decoding: list[decoders.Decoder] = [
        decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()
    ]  # fmt: skip
    if _field(file, "add_space_prefix", bool, True):
        spaces.insert(0, normalizers.Prepend(SPACE))
        decoding.append(decoders.Strip(" ", 1, 0))
    backend.normalizer = normalizers.Sequence(spaces)
    backend.decoder = decoders.Sequence(decoding)
    return backend


def _merges_by_score(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to cut a token into two tokens, best merged token first."""
    merges = []
    for token in sorted(vocabulary, key=lambda token: -scores[vocabulary[token]]):
        cuts = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [pair for pair in cuts if pair[0] in vocabulary and pair[1] in vocabulary]
        merges += sorted(pairs, key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
    return merges


def _add_tokens(backend: Tokenizer, tokens: list[str], types: list[int]) -> None:
    """Control and user-defined tokens are found in the text before anything is split."""
    kinds = list(zip(tokens, types, strict=False))
    backend.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t, kind in kinds if kind == CONTROL]
    )
    backend.add_tokens(
        [AddedToken(t, normalized=False) for t, kind in kinds if kind == USER_DEFINED]
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
