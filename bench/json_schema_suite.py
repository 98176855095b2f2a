"""Runs the official JSON-Schema-Test-Suite against the masks.

    python -m bench.json_schema_suite SUITE/tests/draft2020-12

The suite is part of jsonschema's source distribution, in the folder `json`. A schema is supported
if it compiles. Then the text of each instance either follows the masks to their end or not, which
is compared with what the suite says. A wrong accept breaks a promise. A wrong reject is a valid
text that cannot be generated: the masks fix the order of properties (so the properties of an
instance are tried in every order here), and the suite's corner cases of numbers.
"""

import argparse
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.engine.grammar import GrammarCompiler
from headrace.errors import ValidationError
from headrace.text.tokenizer import Tokenizer, load_tokenizer
from headrace.types import Grammar

MAX_ORDERS = 24


def texts(instance: Any) -> Iterator[str]:
    """An instance with its own properties in every order."""
    if not isinstance(instance, dict):
        yield json.dumps(instance, ensure_ascii=False)
        return
    for items in itertools.islice(itertools.permutations(instance.items()), MAX_ORDERS):
        yield json.dumps(dict(items), ensure_ascii=False)


class Suite:
    """Counts over all files; `wrong` are lines for people."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.compiler = GrammarCompiler(lambda: tokenizer, tokenizer.vocab_size)
        self.counts: Counter[str] = Counter()
        self.keywords: dict[str, Counter[str]] = {}
        self.reasons: Counter[str] = Counter()
        self.wrong: list[str] = []

    def run_file(self, path: Path) -> None:
        keyword = self.keywords[path.stem] = Counter()
        for group in json.loads(path.read_text()):
            grammar = Grammar(kind="json", source=json.dumps(group["schema"]))
            try:
                self.compiler.matcher(grammar)
            except ValidationError as error:
                keyword["refused"] += 1
                self.reasons[str(error).removeprefix("grammar is not valid: ")[:60]] += 1
                continue
            keyword["supported"] += 1
            for test in group["tests"]:
                outcome = self.outcome(grammar, test)
                self.counts[outcome] += 1
                if outcome.startswith("wrong"):
                    name = f"{path.stem}: {group['description']}: {test['description']}"
                    self.wrong.append(f"{outcome}  {name}  {json.dumps(test['data'])[:60]}")

    def outcome(self, grammar: Grammar, test: dict[str, Any]) -> str:
        is_accepted = any(self.accepts(grammar, text) for text in texts(test["data"]))
        if is_accepted == test["valid"]:
            return "right accept" if is_accepted else "right reject"
        return "wrong accept" if is_accepted else "wrong reject"

    def accepts(self, grammar: Grammar, text: str) -> bool:
        try:
            token_ids = self.tokenizer.encode(text, add_special_tokens=False).ids
        except ValidationError:  # half a surrogate pair is no text
            return False
        matcher = self.compiler.matcher(grammar)
        return matcher.try_consume_tokens(token_ids) == len(token_ids) and matcher.is_accepting()

    def report(self) -> None:
        groups = sum(self.keywords.values(), Counter())
        whole = [name for name, counts in self.keywords.items() if not counts["refused"]]
        part = [name for name, c in self.keywords.items() if c["refused"] and c["supported"]]
        none = [name for name, counts in self.keywords.items() if not counts["supported"]]
        print("\n".join(self.wrong))
        print("\nmost frequent refusals:")
        for reason, count in self.reasons.most_common(12):
            print(f"  {count:4} {reason!r}")
        print(f"\nkeywords (files): {len(self.keywords)}")
        for label, names in (("supported", whole), ("in part", part), ("refused", none)):
            print(f"  {label}: {len(names)}  {' '.join(names)}")
        print(f"schemas: {groups['supported']} of {groups.total()} supported")
        print(f"instances: {dict(sorted(self.counts.items()))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    tokenizer = load_tokenizer(open_checkpoint(embedded_model()))
    tokenizer.read_special_tokens_as_text()
    suite = Suite(tokenizer)
    for path in sorted(folder.glob("*.json")):
        suite.run_file(path)
    suite.report()


if __name__ == "__main__":
    main()
