"""The commands: `headrace serve`, `download`, `bench`, and TGI's `text-generation-launcher`.

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


def download(argv: Sequence[str]) -> int:
    """Download a model from the hub (as a server with the same flags would); print where it is."""
    parser = argparse.ArgumentParser(prog="headrace download", description=download.__doc__)
    parser.add_argument(
        "model_id",
        nargs="?",
        default=argparse.SUPPRESS,
        help="org/name, org/name/file.gguf or org/name:Q4_K_M [env MODEL_ID]",
    )
    config.add_arguments(parser, DOWNLOAD_SETTINGS)
    try:
        settings, _ = config.resolve(vars(parser.parse_args(argv)))
        from headrace.serve import locate

        return locate.run(settings)
    except StartupError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1


def bench(argv: Sequence[str]) -> int:
    """Load any OpenAI-compatible server and measure it."""
    from headrace.bench import main

    return main(argv)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "serve": serve,
    "download": download,
    "bench": bench,
}


def main() -> int:
    """Entry point of `headrace`."""
    parser = argparse.ArgumentParser(
        prog="headrace",
        description="A server for large language models; TGI's routes and OpenAI's.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="commands:\n"
        + "\n".join(f"  {name:8} {command.__doc__}" for name, command in COMMANDS.items())
        + "\n\n`headrace COMMAND --help` tells its options.",
    )
    parser.add_argument("--version", "-V", action="version", version=f"headrace {__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND")
    arguments = parser.parse_args(sys.argv[1:2] or ["--help"])
    return COMMANDS[arguments.command](sys.argv[2:])


def launcher() -> int:
    """Entry point of `text-generation-launcher`: TGI's flags, environment names and defaults."""
    return _serve(sys.argv[1:], "text-generation-launcher", {})
