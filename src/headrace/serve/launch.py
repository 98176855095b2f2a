"""Start an engine process for one model. Knows what to tell it, not what it does with it."""

import sys

import msgspec

from headrace.checkpoint.locate import Located
from headrace.config import Settings, child_environment
from headrace.engine import process
from headrace.engine.channel import FrameWriter

ENGINE_MODULE = "headrace.serve.engine_process"


class EngineOrder(msgspec.Struct, frozen=True):
    """All that an engine process needs to know; the first message that it gets."""

    settings: Settings
    checkpoint: str
    """Path of the located checkpoint."""
    adapter: str | None = None
    """Folder of the LoRA adapter to merge into it."""


async def launch_engine(settings: Settings, model: Located) -> process.ChildProcess:
    """Start an engine process that loads `model`. Raises OSError."""
    command = [sys.executable, "-m", ENGINE_MODULE]
    child = await process.launch(command, environment=child_environment())
    adapter = str(model.adapter) if model.adapter else None
    order = EngineOrder(settings, str(model.path), adapter)
    child.socket.sendall(FrameWriter().frame(order))
    return child
