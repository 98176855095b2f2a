"""The command line of `headrace bench`. Knows what may be combined, not what is done with it."""

import argparse
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True, kw_only=True)
class Options:
    """One invocation; exactly one of `streams` and `rates` is not empty."""

    url: str
    model: str | None
    api: Literal["completions", "chat"]
    api_key: str | None
    new_connection: bool
    timeout: float
    streams: tuple[int, ...]
    rates: tuple[float, ...]
    requests: int | None
    duration: float | None
    warmup: int
    prompt_tokens: int
    shared_prefix_tokens: int
    prompts: Path | None
    max_tokens: int
    temperature: float
    seed: int
    ignore_eos: bool
    cancel_share: float
    extra_body: dict[str, Any]
    check_determinism: bool
    count_tokens: bool
    compare: str | None
    compare_model: str | None
    rounds: int
    json: Path | None
    plot: Path | None


def parse_options(argv: Sequence[str]) -> Options:
    """Exits with code 2 and a message on stderr when the arguments are wrong (argparse's way)."""
    parser = _parser()
    values = vars(parser.parse_args(argv))
    if not values["rates"] and not values["streams"]:
        values["streams"] = (8,)
    options = Options(**values)
    if problem := _conflict(options):
        parser.error(problem)
    return options


def _conflict(options: Options) -> str | None:
    if options.prompts and options.shared_prefix_tokens:
        return "--shared-prefix-tokens belongs to synthetic prompts, not to --prompts"
    if options.check_determinism and options.temperature > 0:
        return "--check-determinism needs --temperature 0"
    if options.cancel_share and options.max_tokens < 2:
        return "--cancel-share needs --max-tokens of at least 2"
    if options.compare_model and not options.compare:
        return "--compare-model needs --compare"
    return None


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Adds the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="headrace bench",
        description="Drive an OpenAI-compatible server with streaming requests; measure the answers"
        " and verify them. Exit code 1: a request failed or an answer was not as it must be.",
        formatter_class=_HelpFormatter,
    )
    _add_server(parser.add_argument_group("server"))
    _add_load(parser.add_argument_group("load"))
    _add_request(parser.add_argument_group("requests"))
    _add_checks(parser.add_argument_group("verification"))
    _add_compare(parser.add_argument_group("comparison"))
    _add_output(parser.add_argument_group("output"))
    return parser


def _add_server(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--url", default="http://127.0.0.1:8080", help="without a path, /v1 is added")
    add("--model", help="model name to send; default: the first that /models lists")
    add("--api", choices=["completions", "chat"], default="completions", help="route to use")
    add("--api-key", metavar="KEY", help="sent as a bearer token")
    add("--new-connection", action="store_true", help="a new connection for every request")
    add(
        "--timeout",
        metavar="S",
        type=_number(float, above=0),
        default=300.0,
        help="longest silence, in seconds",
    )


def _add_load(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    loop = group.add_mutually_exclusive_group()
    loop.add_argument(
        "--streams", metavar="N", type=_list_of(_number(int, at_least=1)), default=(),
        help="closed loop: so many requests at a time; 1,8,32 runs one after another; default: 8",
    )  # fmt: skip
    loop.add_argument(
        "--rate", metavar="R", type=_list_of(_number(float, above=0)), default=(), dest="rates",
        help="open loop: Poisson arrivals, so many requests/s (or a list)",
    )  # fmt: skip
    add(
        "--requests", metavar="N", type=_number(int, at_least=1),
        help="requests of one run; default: 4 per stream, at least 16, or what --duration allows",
    )  # fmt: skip
    add(
        "--duration",
        metavar="S",
        type=_number(float, above=0),
        help="start no request after so many seconds",
    )
    add(
        "--warmup",
        metavar="N",
        type=_number(int, at_least=0),
        default=2,
        help="requests before the measurement",
    )


def _add_request(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--prompt-tokens", metavar="N", type=_number(int, at_least=1), default=64,
        help="about this length of synthetic English; the reported count is the server's usage",
    )  # fmt: skip
    add(
        "--shared-prefix-tokens", metavar="N", type=_number(int, at_least=0), default=0,
        help="so many tokens, the same for all requests, in front of each synthetic prompt",
    )  # fmt: skip
    add(
        "--prompts", metavar="FILE", type=Path,
        help='one prompt per line: text, or JSON {"prompt": ...} or {"messages": [...]}',
    )  # fmt: skip
    add(
        "--max-tokens",
        metavar="N",
        type=_number(int, at_least=1),
        default=128,
        help="tokens to generate",
    )
    add(
        "--temperature", metavar="T", type=_number(float, at_least=0), default=0.0, help="0: greedy"
    )
    add(
        "--seed", type=int, default=0,
        help="of prompts, arrivals, cancellations and sampling; the same seed repeats the prompts"
        " and so meets the server's prefix cache",
    )  # fmt: skip
    add("--ignore-eos", action="store_true", help="send ignore_eos and min_tokens = max_tokens")
    add(
        "--cancel-share", metavar="SHARE", type=_share, default=0.0,
        help="share of clients that disconnect after a random number of tokens",
    )  # fmt: skip
    add(
        "--extra-body",
        metavar="JSON",
        type=_json_object,
        default={},
        help="JSON object merged into each body",
    )


def _add_checks(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add(
        "--check-determinism", action="store_true",
        help="send each prompt twice; both answers must have the same text",
    )  # fmt: skip
    add(
        "--count-tokens", action="store_true",
        help="ask for logprobs and compare the tokens they list with usage, one by one",
    )  # fmt: skip


def _add_compare(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--compare", metavar="URL", help="alternate with this server; report medians of ratios")
    add("--compare-model", metavar="MODEL", help="as --model, for --compare")
    add("--rounds", metavar="N", type=_number(int, at_least=1), default=5, help="of --compare")


def _add_output(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--json", metavar="FILE", type=Path, help="write the results to this file")
    add("--plot", metavar="FILE", type=Path, help="draw them into this file (png, svg or pdf)")


def _number(
    kind: Callable[[str], Any], *, at_least: float = -math.inf, above: float = -math.inf
) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        value = kind(text)
        if not (at_least <= value < math.inf and value > above):
            raise argparse.ArgumentTypeError(f"{text} is out of range")
        return value

    parse.__name__ = kind.__name__
    return parse


def _list_of(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parse_list(text: str) -> tuple[Any, ...]:
        return tuple(parse(part) for part in text.split(","))

    parse_list.__name__ = "list"
    return parse_list


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError("must be a JSON object")
    return value
