"""The commands of `headrace`, and TGI's `text-generation-launcher` and `text-generation-server`.

Imports of a command's own modules wait until it is chosen, so that `--help` and start-up stay fast.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

from headrace import __version__, config
from headrace.errors import StartupError

SERVE_DEFAULTS = {"port": 8080}


def _serve(argv: Sequence[str], prog: str, defaults: Mapping[str, object]) -> int:
    if {"--version", "-V"} & set(argv):
        print(f"{prog} {__version__}")
        return 0
    try:
        settings, warnings = config.parse(argv, prog=prog, defaults=defaults)
        from headrace.serve import server

        return server.run(settings, warnings)
    except StartupError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def serve(argv: Sequence[str]) -> int:
    """Serve a model over HTTP."""
    return _serve(argv, "headrace serve", SERVE_DEFAULTS)


def bench(argv: Sequence[str]) -> int:
    """Load any OpenAI-compatible server and measure it."""
    from headrace.bench import main

    return main(argv)


def download_weights(argv: Sequence[str]) -> int:
    """Fetch a model from the hub, and print where it lies."""
    parser = argparse.ArgumentParser(prog="headrace download-weights")
    parser.add_argument("model_id", metavar="MODEL_ID")
    parser.add_argument("--revision", help="branch, tag or commit")
    parser.add_argument("--extension", choices=[".safetensors"], default=".safetensors")
    parser.add_argument("--logger-level", default="info")
    parser.add_argument("--json-output", action="store_true")
    given = parser.parse_args(argv)
    try:
        settings, _ = config.resolve({"model_id": given.model_id, "revision": given.revision})
        from headrace.observability import logging
        from headrace.serve.locate import locate

        logging.setup(given.logger_level.lower(), given.json_output)
        print(locate(settings))
    except StartupError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "serve": serve,
    "bench": bench,
    "download-weights": download_weights,
}


def main() -> int:
    """Entry point of `headrace`."""
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="A server for large language models; TGI's routes and OpenAI's.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {name:16} {command.__doc__}" for name, command in COMMANDS.items())
        + "\n\n`headrace COMMAND --help` tells its options.",
    )
    parser.add_argument("--version", "-V", action="version", version=f"headrace {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    arguments = parser.parse_args(sys.argv[1:2] or ["--help"])
    return COMMANDS[arguments.command](sys.argv[2:])


def launcher() -> int:
    """Entry point of `text-generation-launcher`: TGI's flags, environment names and defaults."""
    return _serve(sys.argv[1:], "text-generation-launcher", {})


def server() -> int:
    """Entry point of `text-generation-server`, of which images call `download-weights`."""
    parser = argparse.ArgumentParser(prog="text-generation-server")
    parser.add_argument("command", choices=["download-weights"])
    parser.parse_args(sys.argv[1:2])
    return download_weights(sys.argv[2:])
