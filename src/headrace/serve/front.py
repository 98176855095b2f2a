"""The host side put together: tokenizer, template, front end, routes, HTTP server."""

import gc
import signal
import socket

import uvicorn

from headrace.api.app import build_app
from headrace.api.service import ServedModel
from headrace.checkpoint import embedded
from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.locate import Located
from headrace.config import Settings
from headrace.observability.metrics import Metrics
from headrace.observability.tracing import Tracing
from headrace.serve.locate import locate_template
from headrace.text.chat import load_chat_template
from headrace.text.frontend import Frontend
from headrace.text.tokenizer import load_tokenizer
from headrace.types import ServedEngine


class Front:
    """Everything that can be made before the engine is ready; then `serve`."""

    def __init__(self, settings: Settings, model: Located, client: ServedEngine) -> None:
        checkpoint = open_checkpoint(model.path, model.adapter)
        tokenizer = load_tokenizer(checkpoint)
        template = load_chat_template(
            checkpoint,
            tokenizer.bos_token,
            tokenizer.eos_token,
            locate_template(settings),
        )
        self.model_id = settings.model_id or embedded.MODEL_ID
        self._settings = settings
        self._client = client
        self._frontend = Frontend(
            client,
            tokenizer,
            template,
            max_input_tokens=settings.prompt_limit,
            max_concurrent_requests=settings.max_concurrent_requests,
            validation_workers=settings.validation_workers,
        )

    async def serve(self, listener: socket.socket, tracing: Tracing | None) -> None:
        """Answer requests until SIGTERM or SIGINT; then finish those that run."""
        info = self._client.info
        limit = self._settings.prompt_limit or info.max_total_tokens - 1
        metrics = Metrics(limit, info.max_total_tokens, self._client.steps)
        model = ServedModel(model_id=self.model_id)
        app = build_app(self._frontend, self._settings, model, metrics, tracing)
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            timeout_graceful_shutdown=self._settings.graceful_termination_timeout,
        )
        # uvicorn raises the signal that stopped it once more when it is done; that would end the
        # process with the signal's code although nothing went wrong.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        # What lives now lives for ever; without this each full collection walks it again.
        gc.collect()
        gc.freeze()
        try:
            await uvicorn.Server(config).serve(sockets=[listener])
        finally:
            self._frontend.close()
