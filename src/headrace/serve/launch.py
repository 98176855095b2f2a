"""Start engine processes for one model. Knows what to tell them, not what they do with it."""

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec

from headrace.checkpoint.checkpoint import Checkpoint, open_checkpoint
from headrace.checkpoint.locate import Located
from headrace.config import Settings, child_environment
from headrace.engine import process
from headrace.engine.channel import FrameWriter
from headrace.engine.replica import Launch
from headrace.serve.machine import Share, cuda_devices, shares, usable_cores
from headrace.types import EngineInfo

ENGINE_MODULE = "headrace.serve.engine_process"


class ModelFiles(msgspec.Struct, frozen=True):
    """Where on its machine a process finds the model."""

    checkpoint: str
    adapter: str | None = None
    """Folder of the LoRA adapter to merge into the checkpoint."""
    drafter: str | None = None
    """The draft model or heads."""

    @property
    def drafter_path(self) -> Path | None:
        return Path(self.drafter) if self.drafter else None

    def open_checkpoint(self) -> Checkpoint:
        """Raises CheckpointError."""
        adapter = Path(self.adapter) if self.adapter else None
        return open_checkpoint(Path(self.checkpoint), adapter)


class Place(msgspec.Struct, frozen=True):
    """Where in a cluster a rank runs."""

    host: str
    """Its name; ranks of one host share memory."""
    address: str
    """Under which other hosts reach it."""
    files: ModelFiles
    port: int = 0
    """Where its process waits for rank 0; of no meaning for rank 0 itself."""


class EngineOrder(msgspec.Struct, frozen=True):
    """All that an engine process needs to know; the first message that it gets."""

    settings: Settings
    files: ModelFiles
    cores: list[int] = []
    """To bind to; empty: none in particular."""
    places: list[Place] = []
    """Of all ranks, neighbours where they share a host, the engine's own first; empty: the engine
    starts the further ranks itself."""


def launches(settings: Settings, model: Located) -> list[Launch]:
    """One per replica of the model. Raises StartupError when the machine has
    not enough devices."""
    return [
        partial(_launch, settings, model, share)
        for share in shares(settings, usable_cores(), cuda_devices())
    ]


async def _launch(
    settings: Settings, model: Located, share: Share, previous: EngineInfo | None
) -> process.ChildProcess:
    order = EngineOrder(settings, files_of(model), share.cores)
    return await launch(order, child_environment(share.cuda_devices), previous)


async def launch(
    order: EngineOrder, environment: Mapping[str, str], previous: EngineInfo | None
) -> process.ChildProcess:
    """Start the process, of the same size as the `previous` one. Raises OSError."""
    if previous is not None:
        # Requests that the process before it had accepted must fit into this one.
        memory = previous.kv_cache_bytes // (order.settings.num_shard or 1)
        settings = replace(order.settings, kv_cache_memory=memory)
        order = msgspec.structs.replace(order, settings=settings)
    child = await process.launch([sys.executable, "-m", ENGINE_MODULE], environment=environment)
    child.socket.sendall(FrameWriter().frame(order))
    return child


def files_of(model: Located) -> ModelFiles:
    return ModelFiles(
        str(model.path),
        str(model.adapter) if model.adapter else None,
        str(model.drafter) if model.drafter else None,
    )
