"""How many schema-constrained generations parse and validate, against a running server.

    python -m bench.structured_output http://127.0.0.1:3000 --generations 200

Samples at temperature 1 through the official client; every text is checked by `jsonschema`. A
generation that runs out of tokens counts as a failure, so the schemas leave no part unbounded that
a small model gets lost in (the fraction of a second in a date-time may have any number of digits).
"""

import argparse
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
from openai import OpenAI

WORD = {"type": "string", "minLength": 1, "maxLength": 24}
POINT = {
    "type": "object",
    "properties": {"x": {"type": "number", "minimum": -9, "maximum": 9}, "y": {"type": "integer"}},
    "required": ["x", "y"],
    "additionalProperties": False,
}
SCHEMAS: dict[str, Any] = {
    "person": {
        "type": "object",
        "properties": {
            "name": WORD,
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "hobbies": {"type": "array", "items": WORD, "maxItems": 3},
        },
        "required": ["name", "age", "hobbies"],
        "additionalProperties": False,
    },
    "formats": {
        "type": "object",
        "properties": {
            "at": {"type": "string", "format": "date-time", "maxLength": 30},
            "id": {"type": "string", "format": "uuid"},
            "host": {"type": "string", "format": "ipv4"},
        },
        "required": ["at", "id", "host"],
        "additionalProperties": False,
    },
    "references": {
        "$defs": {"point": POINT},
        "type": "array",
        "items": {"$ref": "#/$defs/point"},
        "minItems": 1,
        "maxItems": 3,
    },
    "alternatives": {
        "anyOf": [
            {"type": "null"},
            {"enum": ["red", "green", 3, True]},
            {
                "type": "object",
                "properties": {"kind": {"const": "point"}, "at": POINT},
                "required": ["kind", "at"],
                "additionalProperties": False,
            },
        ]
    },
    "pattern": {
        "type": "object",
        "properties": {"code": {"type": "string", "pattern": "^[A-Z]{3}-[0-9]{2,4}$"}},
        "required": ["code"],
        "additionalProperties": False,
    },
}


def generate(client: OpenAI, name: str, seed: int) -> str | None:
    """What is wrong with one generation, if anything."""
    answer = client.chat.completions.create(
        model="headrace",
        messages=[{"role": "user", "content": f"Give me an example of {name} as JSON."}],
        response_format={
            "type": "json_schema",
            "json_schema": {"name": name, "schema": SCHEMAS[name], "strict": True},
        },
        temperature=1.0,
        seed=seed,
        max_tokens=500,
    )
    text = answer.choices[0].message.content or ""
    try:
        jsonschema.validate(
            json.loads(text), SCHEMAS[name], format_checker=jsonschema.FormatChecker()
        )
    except (ValueError, jsonschema.ValidationError) as error:
        reason = answer.choices[0].finish_reason
        return f"{name}, seed {seed}, {reason}: {error!s:.200} in {text!r:.300}"
    return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--generations", type=int, default=200)
    parser.add_argument("--concurrency", type=int, default=16)
    options = parser.parse_args()
    client = OpenAI(base_url=f"{options.url}/v1", api_key="-", max_retries=0, timeout=600)
    names = list(SCHEMAS)
    begin = time.monotonic()
    with ThreadPoolExecutor(options.concurrency) as pool:
        failures = list(
            pool.map(
                lambda seed: generate(client, names[seed % len(names)], seed),
                range(options.generations),
            )
        )
    wrong = [failure for failure in failures if failure]
    print("\n".join(wrong))
    good = len(failures) - len(wrong)
    print(f"{good} of {len(failures)} parse and validate, {time.monotonic() - begin:.1f} s")


if __name__ == "__main__":
    main()
