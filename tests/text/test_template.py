"""Oracle: transformers' rendering of the same templates and messages."""

from typing import Any

import jinja2
import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.text.template import TemplateSet

LLAMA2 = """{{ bos_token }}{% for message in messages %}
    {% if message.role == 'user' %}
[INST] {{ message.content | trim }} [/INST]
    {%- elif message.role == 'assistant' %}
 {{ message.content + eos_token }}
    {%- else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}
{% endfor %}"""

TOOLS = """{%- if tools %}
{{- '<tools>' }}
{%- for tool in tools %}
{{- "\\n" + tool | tojson }}
{{- tool | tojson(indent=2) }}
{%- endfor %}
{{- '</tools>' }}
{%- endif %}
{%- set ns = namespace(found=false) %}
{%- for message in messages[::-1] %}
{%- if message.role == 'user' and not ns.found %}
{%- set ns.found = true %}{%- set ns.last = message.content %}
{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if loop.index0 > 50 %}{% break %}{% endif %}
{%- if message.role == 'tool' %}{% continue %}{% endif %}
<{{ message['role'] }}>{{ message['content'] | replace("a", "A") }}
{%- if not loop.last %},{% endif %}
{%- endfor %}
{{- ns.last.split(' ')[0].upper() }}"""

GENERATION = """{% for m in messages %}
{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}
{% else %}{{ m.content }}
{% endif %}
{% endfor %}{% if enable_thinking is defined and enable_thinking is false %}no{% endif %}"""

MACRO = """{% macro show(m) %}<{{ m.role | capitalize }}: {{ m.content }}>{% endmacro %}
{%- for m in messages %}{{ show(m) }}{% endfor %}
{%- if add_generation_prompt %}<Assistant: {% endif %}
{%- if documents %}{{ documents | length }}{% endif %}
{%- if tools is not none %}{{ tools | map(attribute='name') | join(', ') }}{% endif %}"""

MESSAGES = [
    {"role": "user", "content": "  hä <b>&amp; 日本\n"},
    {"role": "assistant", "content": "a 'quote' \"and\" more"},
    {"role": "user", "content": "last banana"},
]
TOOL = {"name": "f", "parameters": {"é": "<&>", "list": [1, 2.5, None, True]}}


def reference(source: str, variables: dict[str, Any]) -> str:
    given = {"tools": None, "add_generation_prompt": False, "documents": None} | variables
    messages = given.pop("messages")
    (rendered,), _ = render_jinja_template([messages], chat_template=source, **given)
    return str(rendered)


@pytest.mark.parametrize("source", [LLAMA2, TOOLS, GENERATION, MACRO])
@pytest.mark.parametrize(
    "variables",
    [{}, {"tools": [TOOL, TOOL]}, {"add_generation_prompt": True, "enable_thinking": False}],
)
def test_renders_as_transformers_does(source: str, variables: dict[str, Any]) -> None:
    given = {"messages": MESSAGES, "bos_token": "<s>", "eos_token": "</s>"} | variables
    ours = {"tools": None, "documents": None, "add_generation_prompt": False} | given
    assert TemplateSet({"default": source}).render("default", ours) == reference(source, given)


def test_embedded_template(embedded_checkpoint: Checkpoint) -> None:
    assert embedded_checkpoint.gguf is not None
    source = embedded_checkpoint.gguf.metadata["tokenizer.chat_template"]
    given = {"messages": MESSAGES, "add_generation_prompt": True}
    assert TemplateSet({"x": source}).render("x", given) == reference(source, given)


def test_strftime_now() -> None:
    year = TemplateSet({"x": "{{ strftime_now('%Y') }}"}).render("x", {})
    assert len(year) == 4 and year.isdigit()


@pytest.mark.parametrize(
    "source",
    [
        "{{ raise_exception('no') }}",
        "{{ messages.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ undefined_thing.attribute }}",
        "{{ cycler.__init__.__globals__ }}",
    ],
)
def test_refusals_and_escapes_raise(source: str) -> None:
    with pytest.raises(jinja2.TemplateError):
        TemplateSet({"x": source}).render("x", {"messages": []})
