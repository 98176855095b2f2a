"""Start engine processes for one model. Knows what to tell them, not what they do with it."""

import sys
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


class EngineOrder(msgspec.Struct, frozen=True):
    """All that an engine process needs to know; the first message that it gets."""

    settings: Settings
    checkpoint: str
    """Path of the located checkpoint."""
    cores: list[int]
    """To bind to; empty: none in particular."""
    adapter: str | None = None
    """Folder of the LoRA adapter to merge into the checkpoint."""
    drafter: str | None = None
    """Path of the draft model or heads."""

    @property
    def drafter_path(self) -> Path | None:
        return Path(self.drafter) if self.drafter else None

    def open_checkpoint(self) -> Checkpoint:
        """Raises CheckpointError."""
        adapter = Path(self.adapter) if self.adapter else None
        return open_checkpoint(Path(self.checkpoint), adapter)


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
    """Raises OSError."""
    if previous is not None:
        # Requests that the process before it had accepted must fit into this one.
        settings = replace(settings, kv_cache_memory=previous.kv_cache_bytes)
    command = [sys.executable, "-m", ENGINE_MODULE]
    child = await process.launch(command, environment=child_environment(share.cuda_devices))
    adapter = str(model.adapter) if model.adapter else None
    drafter = str(model.drafter) if model.drafter else None
    order = EngineOrder(settings, str(model.path), share.cores, adapter, drafter)
    child.socket.sendall(FrameWriter().frame(order))
    return child
