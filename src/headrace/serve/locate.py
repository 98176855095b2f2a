"""From settings to the checkpoint's path on this machine."""

import logging
from pathlib import Path

from headrace.checkpoint import hub
from headrace.config import Settings, hub_access

log = logging.getLogger(__name__)


def locate(settings: Settings) -> Path:
    """The checkpoint's path, downloaded if need be. Raises StartupError."""
    access = hub_access()
    cache = settings.huggingface_hub_cache
    return hub.locate(
        settings.weights_cache_override or settings.model_id,
        revision=settings.revision,
        cache_dir=Path(cache) if cache else None,
        token=access.token,
        offline=access.offline,
        progress=log.info,
    )
