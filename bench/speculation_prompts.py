"""Prompts of the benchmark of speculation: easy to draft for, or not. None comes twice."""

import argparse
import inspect
import json
import random
import re
import shlex
import statistics
import urllib.request
from collections.abc import Callable
from pydoc_data.topics import topics
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


def prose() -> list[str]:
    """Paragraphs of 30 to 90 words, of Python's reference: no code, which a small model copies
    badly."""
    paragraphs = [" ".join(part.split()) for text in topics.values() for part in text.split("\n\n")]
    return [
        text
        for text in paragraphs
        if 30 < len(text.split()) < 90 and text[0].isalpha() and text.endswith(".")
        and not re.search(r">>>|::=|\*\*\*|===|---", text)
    ]  # fmt: skip


def passage(chance: random.Random, num_paragraphs: int = 3) -> str:
    """Some 50 words a paragraph."""
    return "\n\n".join(chance.sample(prose(), num_paragraphs))


def misspelled(text: str, chance: random.Random) -> str:
    """Every 25th word has two letters exchanged."""
    words = text.split(" ")
    for index in chance.sample(range(len(words)), len(words) // 25):
        word = words[index]
        at = chance.randrange(len(word)) if word else 0
        words[index] = word[:at] + word[at : at + 2][::-1] + word[at + 2 :]
    return " ".join(words)


def source_code(chance: random.Random) -> str:
    """Lines of real code, cut in the middle."""
    lines = inspect.getsource(chance.choice(MODULES)).splitlines()
    begin = chance.randrange(max(1, len(lines) - 60))
    return "\n".join(lines[begin : begin + 60]) + "\n"


def chat(content: str, **fields: Any) -> Body:
    return {"messages": [{"role": "user", "content": content}], "temperature": 0, **fields}


def copy(chance: random.Random) -> Body:
    return chat(f"Repeat this text word for word:\n\n{passage(chance)}")


def edit(chance: random.Random) -> Body:
    task = "Correct the spelling mistakes in this text. Repeat all of it, change nothing else."
    return chat(f"{task}\n\n{misspelled(passage(chance), chance)}")


def quote(chance: random.Random) -> Body:
    task = "Summarize this text with quotes: repeat its most important sentences word for word."
    return chat(f"{task}\n\n{passage(chance, 4)}")


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
    """Requests to OpenAI's chat or completions route, which has those with a `prompt`.

    Half to one and a half times `max_tokens`: of equal length, streams without speculation would
    stay in step for ever, and have all their next prompts computed in one pass, which no real load
    offers.
    """
    shortest, longest = max_tokens // 2, max_tokens * 3 // 2
    return [
        {"model": "x", "max_tokens": chance.randint(shortest, longest)}
        | WORKLOADS[workload](chance)
        for _ in range(count)
    ]
