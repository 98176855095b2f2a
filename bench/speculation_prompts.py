"""Prompts of the benchmark of speculation: easy to draft for, or not. None comes twice."""

import argparse
import inspect
import json
import random
import shlex
import statistics
import urllib.request
from collections.abc import Callable
from typing import Any

MODULES = (argparse, inspect, json, random, shlex, statistics, urllib.request)
SCHEMA = {
    "type": "object",
    "properties": {
        "orders": {
            "type": "array",
            "minItems": 4,
            "maxItems": 4,
            "items": {
                "type": "object",
                "properties": {
                    "order_number": {"type": "integer", "minimum": 1000, "maximum": 9999},
                    "customer_name": {"type": "string", "maxLength": 16},
                    "shipping_country": {"enum": ["France", "Japan", "Brazil", "Canada"]},
                    "is_paid_in_advance": {"type": "boolean"},
                    "delivery_date": {"type": "string", "format": "date"},
                },
                "required": [
                    "order_number", "customer_name", "shipping_country", "is_paid_in_advance",
                    "delivery_date",
                ],
                "additionalProperties": False,
            },
        }
    },
    "required": ["orders"],
    "additionalProperties": False,
}  # fmt: skip
QUESTIONS = (
    "Explain {topic} to a curious child.",
    "Write a short story in which {topic} changes somebody's life.",
    "What should I know about {topic} before my holiday?",
    "Give me five ideas for a talk about {topic}.",
    "Write a poem about {topic}.",
)
TOPICS = ("water mills", "the moon", "bread", "bicycles", "rivers", "old maps", "bees", "glass",
          "thunder", "chess", "lighthouses", "salt", "tea", "bridges", "owls")  # fmt: skip
Body = dict[str, Any]


def documentation(chance: random.Random) -> str:
    """A passage of some 200 words that no other request has."""
    texts = [inspect.getdoc(value) or "" for module in MODULES for value in vars(module).values()]
    passages = [" ".join(text.split()[:60]) for text in texts if len(text.split()) > 40]
    return "\n".join(chance.sample(passages, 3))


def source_code(chance: random.Random) -> str:
    """Lines of real code, cut in the middle."""
    lines = inspect.getsource(chance.choice(MODULES)).splitlines()
    begin = chance.randrange(max(1, len(lines) - 90))
    return "\n".join(lines[begin : begin + 90]) + "\n"


def chat(content: str, **fields: Any) -> Body:
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def copy(chance: random.Random) -> Body:
    return chat(f"Repeat this text word for word:\n\n{documentation(chance)}")


def edit(chance: random.Random) -> Body:
    return chat(
        f"Correct spelling and punctuation, change nothing else:\n\n{documentation(chance)}"
    )


def quote(chance: random.Random) -> Body:
    text = documentation(chance)
    return chat(f"Summarize this text by quoting its most important sentences:\n\n{text}")


def code(chance: random.Random) -> Body:
    return {"prompt": source_code(chance), "temperature": 0}


def json_schema(chance: random.Random) -> Body:
    form = {"type": "json_schema", "json_schema": {"name": "orders", "schema": SCHEMA}}
    text = f"Invent four orders of a shop that sells {words(chance, 3)}. Answer in JSON."
    return chat(text, temperature=0.7, seed=chance.getrandbits(31), response_format=form)


def adversarial(chance: random.Random) -> Body:
    return chat(words(chance, 60), temperature=1.5, seed=chance.getrandbits(31))


def open_chat(chance: random.Random) -> Body:
    question = chance.choice(QUESTIONS).format(topic=chance.choice(TOPICS))
    return chat(question, temperature=0.7, seed=chance.getrandbits(31))


def words(chance: random.Random, count: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return " ".join("".join(chance.choices(letters, k=chance.randint(2, 8))) for _ in range(count))


WORKLOADS: dict[str, Callable[[random.Random], Body]] = {
    "copy": copy,
    "edit": edit,
    "quote": quote,
    "code": code,
    "json": json_schema,
    "adversarial": adversarial,
    "open": open_chat,
}


def bodies(workload: str, chance: random.Random, count: int, max_tokens: int) -> list[Body]:
    """Requests to OpenAI's chat or completions route, which has those with a `prompt`."""
    common = {"model": "x", "max_tokens": max_tokens}
    return [common | WORKLOADS[workload](chance) for _ in range(count)]
