"""Start an engine process for one model. Knows what to tell it, not what it does with it."""

import sys
from pathlib import Path

import msgspec

from headrace.config import Settings, child_environment
from headrace.engine import process
from headrace.engine.channel import FrameWriter

ENGINE_MODULE = "headrace.serve.engine_process"


class EngineOrder(msgspec.Struct, frozen=True):
    """All that an engine process needs to know; the first message that it gets."""

    settings: Settings
    checkpoint: str
    """Path of the located checkpoint."""


async def launch_engine(settings: Settings, path: Path) -> process.ChildProcess:
    """Start an engine process that loads the checkpoint at `path`. Raises OSError."""
    command = [sys.executable, "-m", ENGINE_MODULE]
    child = await process.launch(command, environment=child_environment())
    child.socket.sendall(FrameWriter().frame(EngineOrder(settings, str(path))))
    return child
