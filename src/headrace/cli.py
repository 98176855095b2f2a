"""The commands of `headrace`, and TGI's `text-generation-launcher` and `text-generation-server`.

Imports of a command's own modules wait until it is chosen, so that `--help` and start-up stay fast.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

from headrace import __version__, config
from headrace.errors import StartupError

SERVE_DEFAULTS = {"port": 8080}
DOWNLOAD_SETTINGS = {
    "revision",
    "huggingface_hub_cache",
    "trust_remote_code",
    "tokenizer_config_path",
    "json_output",
    "log_level",
}


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


def download(argv: Sequence[str]) -> int:
    """Fetch a model from the hub, as a server would, and print where it lies."""
    parser = argparse.ArgumentParser(prog="headrace download", description=download.__doc__)
    parser.add_argument(
        "model_id",
        nargs="?",
        default=argparse.SUPPRESS,
        help="org/name, org/name/file.gguf or org/name:Q4_K_M [env MODEL_ID]",
    )
    config.add_arguments(parser, DOWNLOAD_SETTINGS)
    return _download(vars(parser.parse_args(argv)))


def download_weights(argv: Sequence[str]) -> int:
    """The same with the options of TGI's `text-generation-server download-weights`."""
    parser = argparse.ArgumentParser(
        prog="headrace download-weights", argument_default=argparse.SUPPRESS
    )
    parser.add_argument("model_id", metavar="MODEL_ID")
    parser.add_argument("--revision", help="branch, tag or commit")
    parser.add_argument("--extension", choices=[".safetensors"])
    parser.add_argument("--logger-level", type=str.lower, dest="log_level")
    parser.add_argument("--json-output", action="store_true")
    arguments = vars(parser.parse_args(argv))
    arguments.pop("extension", None)  # the preferred one in any case
    return _download(arguments)


def _download(arguments: Mapping[str, object]) -> int:
    try:
        settings, _ = config.resolve(arguments)
        from headrace.serve import locate

        return locate.run(settings)
    except StartupError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def quantize(argv: Sequence[str]) -> int:
    """Make a GPTQ or int4 checkpoint from a model and a text."""
    return _quantize(argv, "headrace quantize")


def _quantize(argv: Sequence[str], prog: str) -> int:
    try:
        from headrace.serve import quantize

        return quantize.run(argv, prog)
    except StartupError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "serve": serve,
    "download": download,
    "bench": bench,
    "quantize": quantize,
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


SERVER_COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "download-weights": download_weights,
    "quantize": lambda argv: _quantize(argv, "text-generation-server quantize"),
}


def server() -> int:
    """Entry point of `text-generation-server`, whose own server is not needed here."""
    parser = argparse.ArgumentParser(prog="text-generation-server")
    parser.add_argument("command", choices=SERVER_COMMANDS)
    arguments = parser.parse_args(sys.argv[1:2])
    return SERVER_COMMANDS[arguments.command](sys.argv[2:])
