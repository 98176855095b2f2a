"""Chat messages to a prompt: find the checkpoint's chat template and apply it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.checkpoint.safetensors import read_json
from headrace.errors import CheckpointError, TemplateError
from headrace.text.template_process import TemplateProcess

Message = dict[str, Any]

CUT = "<|cut-here|> "
"""Put behind a message that is to be continued. It ends in a space: if the template strips the
message, the space goes too, and so must those before it."""


class ChatTemplate:
    """A checkpoint's chat templates: "default", and perhaps "tool_use" for prompts with tools."""

    def __init__(
        self, sources: Mapping[str, str], bos_token: str | None, eos_token: str | None
    ) -> None:
        self.sources = sources
        self._special_tokens = {"bos_token": bos_token or "", "eos_token": eos_token or ""}
        self._process = TemplateProcess(sources)

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **kwargs: Any,
    ) -> str:
        """The prompt, special tokens spelled out.

        A final message of the assistant is not closed, so that the model continues it. `kwargs`
        are further variables of the template. Raises TemplateError.
        """
        prefix = _continued(messages)
        variables = {
            "documents": None,
            **kwargs,
            **self._special_tokens,
            "messages": messages if prefix is None else prefix,
            "tools": tools,
            "add_generation_prompt": add_generation_prompt and prefix is None,
        }
        prompt = self._process.render(self._name(tools), variables)
        return prompt if prefix is None else _cut(prompt)

    def close(self) -> None:
        """End the process that renders."""
        self._process.close()

    def _name(self, tools: Sequence[dict[str, Any]] | None) -> str:
        name = "tool_use" if tools and "tool_use" in self.sources else "default"
        if name not in self.sources:
            raise TemplateError(
                f"none of the templates is named default: {', '.join(sorted(self.sources))}"
            )
        return name


def _continued(messages: Sequence[Message]) -> list[Message] | None:
    """The messages with the cut marked, if the last one is an assistant's with text, and
    without tool calls (which end a message)."""
    if not messages or messages[-1].get("role") != "assistant":
        return None
    if messages[-1].get("tool_calls"):
        return None
    content = messages[-1].get("content")
    if isinstance(content, str):
        marked: Any = content + CUT
    elif isinstance(content, list) and content and isinstance(content[-1].get("text"), str):
        marked = [*content[:-1], {**content[-1], "text": content[-1]["text"] + CUT}]
    else:
        return None
    return [*messages[:-1], {**messages[-1], "content": marked}]


def _cut(prompt: str) -> str:
    position = prompt.rfind(CUT)
    if position >= 0:
        return prompt[:position]
    position = prompt.rfind(CUT.rstrip())
    if position < 0:
        raise TemplateError("the final assistant message does not appear in the rendered chat")
    return prompt[:position].rstrip()


def load_chat_template(
    checkpoint: Checkpoint,
    bos_token: str | None,
    eos_token: str | None,
    tokenizer_config_path: Path | None = None,
) -> ChatTemplate | None:
    """The chat template of a checkpoint, None when it has none.

    `tokenizer_config_path` (a tokenizer_config.json, a .jinja file, or a folder with either) goes
    before the checkpoint's own files. Raises CheckpointError for a file that cannot be read.
    """
    if tokenizer_config_path is not None:
        is_folder = tokenizer_config_path.is_dir()
        sources = (_from_folder if is_folder else _from_file)(tokenizer_config_path)
        if not sources:
            raise CheckpointError(f"{tokenizer_config_path}: has no chat_template")
    elif checkpoint.gguf is not None:
        sources = _from_metadata(checkpoint.gguf.metadata)
    else:
        sources = _from_folder(checkpoint.text_folder)
    return ChatTemplate(sources, bos_token, eos_token) if sources else None


def _from_folder(folder: Path) -> dict[str, str]:
    """The first file that has a template, and the named ones that have a file each."""
    named = {
        file.stem: _read(file) for file in sorted(folder.glob("additional_chat_templates/*.jinja"))
    }
    for name in ("chat_template.jinja", "chat_template.json", "tokenizer_config.json"):
        if (folder / name).exists() and (sources := _from_file(folder / name)):
            return sources | named
    return named


def _from_file(path: Path) -> dict[str, str]:
    if path.suffix == ".jinja":
        return {"default": _read(path)}
    value = read_json(path).get("chat_template")
    if isinstance(value, str):
        return {"default": value}
    try:
        return {str(entry["name"]): str(entry["template"]) for entry in value or []}
    except (TypeError, KeyError):
        raise CheckpointError(
            f"{path}: chat_template must be a string or a list of objects with name and template"
        ) from None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from None


def _from_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """`tokenizer.chat_template`, and named ones as `tokenizer.chat_template.<name>`."""
    key = "tokenizer.chat_template"
    named = {
        name.removeprefix(key + "."): source
        for name, source in metadata.items()
        if name.startswith(key + ".")
    }
    sources = {**named, "default": metadata[key]} if key in metadata else named
    return {name: source for name, source in sources.items() if isinstance(source, str)}
