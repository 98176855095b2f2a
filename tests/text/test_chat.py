"""Oracle: transformers' apply_chat_template, with and without continue_final_message."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.errors import CheckpointError, TemplateError
from headrace.text.chat import ChatTemplate, load_chat_template

CHATML = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
TRIMMING = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}"
)
USER = {"role": "user", "content": "Say it"}


@pytest.fixture(scope="module")
def templates() -> Iterator[dict[str, ChatTemplate]]:
    made = {s: ChatTemplate({"default": s}, "<s>", "</s>") for s in (CHATML, TRIMMING)}
    yield made
    for template in made.values():
        template.close()


@pytest.mark.parametrize("source", [CHATML, TRIMMING])
@pytest.mark.parametrize("content", ["Sure", "Sure:  ", "  Sure\n", "", "Say it"])
def test_final_assistant_message_is_continued(
    source: str, content: str, templates: dict[str, ChatTemplate]
) -> None:
    messages = [USER, {"role": "assistant", "content": content}]
    (expected,), _ = render_jinja_template(
        [messages], chat_template=source, continue_final_message=True, eos_token="</s>"
    )
    assert templates[source].render(messages) == expected
    assert messages[1]["content"] == content


@pytest.mark.parametrize("source", [CHATML, TRIMMING])
def test_other_conversations_ask_for_an_answer(
    source: str, templates: dict[str, ChatTemplate]
) -> None:
    for generate in (True, False):
        (expected,), _ = render_jinja_template(
            [[USER]], chat_template=source, add_generation_prompt=generate, eos_token="</s>"
        )
        assert templates[source].render([USER], add_generation_prompt=generate) == expected


def test_assistant_message_of_tool_calls_only_is_not_continued() -> None:
    template = ChatTemplate({"default": "{{ add_generation_prompt }}"}, None, None)
    calls = {"role": "assistant", "content": None, "tool_calls": [{}]}
    assert template.render([calls]) == "True"
    template.close()


def test_last_text_part_is_continued() -> None:
    source = "{% for m in messages %}{% for p in m.content %}{{ p.text }};{% endfor %}{% endfor %}"
    template = ChatTemplate({"default": source}, None, None)
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert template.render([{"role": "assistant", "content": parts}]) == "one;two"
    template.close()


def test_template_that_drops_the_final_message_is_an_error() -> None:
    template = ChatTemplate({"default": "{{ messages[0].content }}"}, None, None)
    with pytest.raises(TemplateError, match="final assistant message does not appear"):
        template.render([USER, {"role": "assistant", "content": "Sure"}])
    template.close()


def test_variables_cannot_replace_the_special_tokens() -> None:
    template = ChatTemplate({"default": "{{ bos_token }}{{ mood }}{{ documents }}"}, "<s>", None)
    assert template.render([USER], mood="!", bos_token="x", documents=[]) == "<s>![]"
    template.close()


def test_template_for_tools_is_taken_when_there_are_tools() -> None:
    template = ChatTemplate({"default": "plain", "tool_use": "{{ tools[0].name }}"}, None, None)
    assert template.render([USER]) == "plain"
    assert template.render([USER], tools=[{"name": "f"}]) == "f"
    template.close()


def test_named_templates_without_default() -> None:
    template = ChatTemplate({"rag": "x"}, None, None)
    with pytest.raises(TemplateError, match="named default: rag"):
        template.render([USER])
    template.close()


def rendered(checkpoint: Checkpoint, path: Path | None = None) -> str | None:
    template = load_chat_template(checkpoint, None, None, path)
    if template is None:
        return None
    text = template.render([USER])
    template.close()
    return text


def folder(path: Path, files: dict[str, Any]) -> Checkpoint:
    for name, value in files.items():
        text = value if isinstance(value, str) else json.dumps(value)
        (path / name).write_text(text)
    return Checkpoint(path=path, kind="safetensors", config={})


def test_sources_in_their_order(tmp_path: Path) -> None:
    checkpoint = folder(tmp_path, {"tokenizer_config.json": {"eos_token": "x"}})
    assert rendered(checkpoint) is None
    folder(tmp_path, {"tokenizer_config.json": {"chat_template": "one"}})
    assert rendered(checkpoint) == "one"
    named = [{"name": "default", "template": "two"}, {"name": "rag", "template": "no"}]
    folder(tmp_path, {"tokenizer_config.json": {"chat_template": named}})
    assert rendered(checkpoint) == "two"
    folder(tmp_path, {"chat_template.json": {"chat_template": "three"}})
    assert rendered(checkpoint) == "three"
    folder(tmp_path, {"chat_template.jinja": "four"})
    assert rendered(checkpoint) == "four"
    folder(tmp_path, {"mine.json": {"chat_template": "five"}})
    assert rendered(checkpoint, tmp_path / "mine.json") == "five"
    (tmp_path / "other").mkdir()
    folder(tmp_path / "other", {"tokenizer_config.json": {"chat_template": "six"}})
    assert rendered(checkpoint, tmp_path / "other") == "six"
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="empty: has no chat_template"):
        rendered(checkpoint, tmp_path / "empty")


@pytest.mark.parametrize("main", ["chat_template.jinja", "tokenizer_config.json"])
def test_named_templates_in_a_folder_of_their_own(main: str, tmp_path: Path) -> None:
    """As transformers saves a tokenizer that has several."""
    source = "plain" if main.endswith("jinja") else {"chat_template": "plain"}
    checkpoint = folder(tmp_path, {main: source})
    (tmp_path / "additional_chat_templates").mkdir()
    folder(tmp_path / "additional_chat_templates", {"tool_use.jinja": "with tools"})
    template = load_chat_template(checkpoint, None, None)
    assert template is not None
    assert template.render([USER]) == "plain"
    assert template.render([USER], tools=[{"name": "f"}]) == "with tools"
    template.close()


def test_embedded_model(embedded_checkpoint: Checkpoint) -> None:
    text = rendered(embedded_checkpoint)
    assert text is not None and text.endswith("Say it<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{}", "has no chat_template"),
        ("[]", "must be a JSON object"),
        ('{"chat_template": [{"name": "x"}]}', "name and template"),
        ('{"chat_template": 3}', "name and template"),
    ],
)
def test_unusable_files_are_named(content: str, message: str, tmp_path: Path) -> None:
    checkpoint = folder(tmp_path, {"mine.json": content})
    with pytest.raises(CheckpointError, match=f"mine.json.*{message}"):
        load_chat_template(checkpoint, None, None, tmp_path / "mine.json")
