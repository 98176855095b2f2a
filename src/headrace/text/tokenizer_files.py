"""Build a `tokenizers.Tokenizer` from the files of a checkpoint folder, whichever it has.

tokenizer.json says everything. Other checkpoints have a SentencePiece model, a tiktoken file, or a
vocabulary with merges; of the latter two only the name of transformers' class tells how they split
text. Their special tokens lie in tokenizer_config.json.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, models, processors

from headrace.checkpoint.safetensors import read_json
from headrace.errors import CheckpointError
from headrace.text import sentencepiece, tiktoken
from headrace.text.byte_level import byte_level

BYTE_LEVEL_CLASSES = {"GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}
"""Key in PRE_TOKENIZERS by transformers' tokenizer class (without Fast)."""


def read_config(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, and from older checkpoints what special_tokens_map.json adds."""
    paths = (folder / "special_tokens_map.json", folder / "tokenizer_config.json")
    return {key: value for path in paths if path.exists() for key, value in read_json(path).items()}


def read_backend(folder: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """`config` is that of `read_config`. Raises CheckpointError naming the file."""
    if (folder / "tokenizer.json").exists():
        return _from_json(folder / "tokenizer.json")
    if (path := _tiktoken_file(folder)) is not None:
        return _from_tiktoken(path, config)
    if (folder / "tokenizer.model").exists():
        return _from_sentencepiece(folder, config)
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        return _from_vocabulary(folder, config)
    raise _unreadable(
        folder, "there is no tokenizer.json, tokenizer.model, .tiktoken or vocab.json"
    )


def token_name(config: Mapping[str, Any], key: str) -> str | None:
    """`bos_token` or `eos_token`: a string, or an object with `content`."""
    value = config.get(key)
    name = value.get("content") if isinstance(value, dict) else value
    return name if isinstance(name, str) else None


def _from_json(path: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # The library raises no narrower class.
        raise CheckpointError(f"{path}: {error}") from None


def _from_sentencepiece(folder: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    model = sentencepiece.read_model(folder / "tokenizer.model")
    backend = sentencepiece.build(model)
    _add_tokens(backend, folder, config)
    ends = {
        key: token_name(config, f"{key}_token")
        or (model.pieces[token_id] if 0 <= token_id < len(model.pieces) else None)
        for key, token_id in (("bos", model.bos_id), ("eos", model.eos_id))
    }
    _add_ends(backend, ends, {"add_bos_token": True, **config})
    return backend


def _tiktoken_file(folder: Path) -> Path | None:
    found = [*folder.glob("*.tiktoken"), *folder.glob("tiktoken.model")]
    if len(found) > 1:
        names = ", ".join(sorted(path.name for path in found))
        raise _unreadable(folder, f"there are several: {names}")
    general = folder / "tokenizer.model"
    if not found and general.exists() and tiktoken.is_tiktoken(general):
        return general
    return found[0] if found else None


def _from_tiktoken(path: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    family = tiktoken.family_of(config.get("tokenizer_class"), path)
    ranks = tiktoken.read_ranks(path)
    backend = tiktoken.build(ranks, family)
    _add_tokens(backend, path.parent, config, tiktoken.special_tokens(ranks, family))
    if missing := [name for name in family.prefix if backend.token_to_id(name) is None]:
        raise CheckpointError(f"{path}: tokenizer_config.json names no token {missing[0]}")
    _surround(backend, family.prefix)
    return backend


def _from_vocabulary(folder: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """Byte-level BPE."""
    name = str(config.get("tokenizer_class")).removesuffix("Fast")
    if name not in BYTE_LEVEL_CLASSES:
        raise _unreadable(folder, f"how tokenizer_class {name} splits text is not known")
    try:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:  # The library raises no narrower class.
        raise CheckpointError(f"{folder}: vocab.json and merges.txt: {error}") from None
    backend = byte_level(model, BYTE_LEVEL_CLASSES[name])
    _add_tokens(backend, folder, config)
    ends = {key: token_name(config, f"{key}_token") for key in ("bos", "eos")}
    _add_ends(backend, ends, config)
    return backend


def _add_tokens(
    backend: tokenizers.Tokenizer,
    folder: Path,
    config: Mapping[str, Any],
    known: Mapping[int, str] | None = None,
) -> None:
    """Tokens on top of the vocabulary, by id: of the configuration, or an older file of its own.

    `known` are special tokens where neither names any.
    """
    tokens = config.get("added_tokens_decoder")
    if not tokens and (folder / "added_tokens.json").exists():
        named = read_json(folder / "added_tokens.json")
        tokens = {token_id: {"content": name} for name, token_id in named.items()}
    try:
        entries = {int(key): _added_token(entry) for key, entry in (tokens or {}).items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder}: unusable added tokens: {error!r}") from None
    names = {token.content for token in entries.values()}
    others = {key: name for key, name in (known or {}).items() if name not in names}
    entries = {key: _added_token({"content": name}) for key, name in others.items()} | entries
    for token_id, token in sorted(entries.items()):
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(token.content) != token_id:
            raise CheckpointError(
                f"{folder}: added token {token.content!r} has id {token_id}, "
                f"but its place is {backend.token_to_id(token.content)}"
            )


def _added_token(entry: Mapping[str, Any]) -> AddedToken:
    flags = {name: bool(entry.get(name, False)) for name in ("normalized", "lstrip", "rstrip")}
    return AddedToken(entry["content"], special=bool(entry.get("special", True)), **flags)


def _add_ends(
    backend: tokenizers.Tokenizer, ends: Mapping[str, str | None], config: Mapping[str, Any]
) -> None:
    """BOS before and EOS after every text, as the configuration says."""
    begin, end = (
        [name] if config.get(f"add_{key}_token") and (name := ends[key]) is not None else []
        for key in ("bos", "eos")
    )
    _surround(backend, begin, end)


def _surround(backend: tokenizers.Tokenizer, begin: Sequence[str], end: Sequence[str] = ()) -> None:
    if begin or end:
        backend.post_processor = processors.TemplateProcessing(
            single=[*begin, "$A", *end],
            special_tokens=[(name, backend.token_to_id(name)) for name in (*begin, *end)],
        )


def _unreadable(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"{folder}: no usable tokenizer: {reason}; make a tokenizer.json with transformers: "
        "AutoTokenizer.from_pretrained(folder).save_pretrained(folder)"
    )
