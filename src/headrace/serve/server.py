"""The front-end process: start the engine, get ready meanwhile, then open the port.

The order is for the user who waits: the engine process starts loading before this process imports
the web framework and builds the tokenizer. The port is taken early (a taken port is an error at
once) but listens only when the model answers, as TGI's does.
"""

import asyncio
import ipaddress
import logging
import platform
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

import uvloop

from headrace import __version__
from headrace.checkpoint.locate import Located
from headrace.config import Settings
from headrace.engine.client import ProcessEngineClient
from headrace.errors import StartupError
from headrace.observability import logging as log_setup
from headrace.observability.tracing import Tracing
from headrace.serve.launch import launches
from headrace.serve.load_display import LoadDisplay
from headrace.serve.locate import locate
from headrace.types import LoadProgress, ServedEngine

log = logging.getLogger(__name__)

BACKLOG = 2048


def run(settings: Settings, warnings: Sequence[str]) -> int:
    """Serve until a signal ends it; returns the exit code. Raises StartupError."""
    log_setup.setup(settings.log_level, settings.json_output)
    for warning in warnings:
        log.warning(warning)
    if settings.env:
        log.info(describe_environment())
    with bind(settings) as listener, trace(settings) as tracing:
        model, display = locate(settings), LoadDisplay()
        with engines(settings, model, display.update) as client:
            return uvloop.run(serve(settings, model, listener, client, display, tracing))


@contextmanager
def trace(settings: Settings) -> Iterator[Tracing | None]:
    """Spans go out as long as this lasts, if the settings ask for it."""
    if settings.otlp_endpoint is None:
        yield None
        return
    with closing(Tracing(settings.otlp_endpoint, settings.otlp_service_name)) as tracing:
        yield tracing


def describe_environment() -> str:
    """What `--env` prints, for bug reports."""
    return f"Headrace {__version__}, Python {platform.python_version()}, {platform.platform()}"


def bind(settings: Settings) -> socket.socket:
    """Take the port without listening: clients are refused until the model answers."""
    try:
        address = ipaddress.ip_address(settings.hostname)
    except ValueError:
        log.warning("--hostname %s is no IP address; using 0.0.0.0, as TGI", settings.hostname)
        address = ipaddress.ip_address("0.0.0.0")
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((str(address), settings.port))
    except OSError as error:
        listener.close()
        raise StartupError(
            f"--port {settings.port} on {address}: {error.strerror}; "
            "another server may be running there"
        ) from None
    return listener


@contextmanager
def engines(
    settings: Settings, model: Located, on_progress: Callable[[LoadProgress], None]
) -> Iterator[ServedEngine]:
    """The engines to serve, not started yet: processes of this machine, or actors of a cluster."""
    if settings.ray:
        try:
            from headrace.serve.cluster.server import Cluster
        except ImportError as error:
            raise StartupError(f"--ray: {error}; install it: pip install 'headrace[ray]'") from None
        with Cluster(settings) as client:
            yield client
    else:
        yield ProcessEngineClient(launches(settings, model), on_progress=on_progress)


async def serve(
    settings: Settings,
    model: Located,
    listener: socket.socket,
    client: ServedEngine,
    display: LoadDisplay,
    tracing: Tracing | None,
) -> int:
    """Run engine and HTTP server until the server is told to stop."""
    with display:
        starting = asyncio.create_task(client.start())
        await asyncio.sleep(0)  # lets the engine process start before the imports below
        # Web framework and tokenizer load while the engine process does.
        from headrace.serve.front import Front

        front = Front(settings, model, client)
        await starting
    try:
        listener.listen(BACKLOG)
        announce(settings, front.model_id, client)
        await front.serve(listener, tracing)
    finally:
        await client.close()
    return 0


def announce(settings: Settings, model_id: str, client: ServedEngine) -> None:
    """Tell what is served, where, and how to ask."""
    info = client.info
    host = "127.0.0.1" if settings.hostname in {"0.0.0.0", "::"} else settings.hostname
    url = f"http://{host}:{settings.port}"
    log.info("Connected")  # the line that TGI's own load tests wait for
    log.info("%s on %s, %s; kernels: %s", model_id, info.device, info.dtype, info.kernels)
    log.info(
        "up to %d tokens a request, %d blocks of %d tokens in the cache",
        info.max_total_tokens, info.num_blocks, info.block_size,
    )  # fmt: skip
    log.info("serving at %s (documentation at %s/docs)", url, url)
    log.info(
        "try: curl %s/v1/chat/completions -H 'Content-Type: application/json' "
        """-d '{"messages": [{"role": "user", "content": "What is a headrace?"}]}'""",
        url,
    )
