"""Get the files that the settings name, and show people how far their download is."""

from pathlib import Path

from headrace.checkpoint import locate as models
from headrace.checkpoint.download import Progress
from headrace.checkpoint.hub import Hub, parse_reference
from headrace.checkpoint.locate import Located
from headrace.config import Settings, hub_access
from headrace.errors import StartupError
from headrace.observability import logging as log_setup
from headrace.serve.download_display import DownloadDisplay


def run(settings: Settings) -> int:
    """`headrace download`: print the model's path; returns the exit code. Raises StartupError."""
    log_setup.setup(settings.log_level, settings.json_output)
    model = locate(settings)
    locate_template(settings)
    print(model.path)
    if model.adapter is not None:
        print(model.adapter)
    if model.drafter is not None:
        print(model.drafter)
    return 0


def locate(settings: Settings) -> Located:
    """Where the model lies, after downloading it if need be. Raises StartupError."""
    with DownloadDisplay() as display:
        return models.locate(
            settings.weights_cache_override or settings.model_id,
            _hub(settings, display.update),
            settings.revision,
            settings.draft_model_id,
            with_weights=settings.load_format != "dummy",
            with_code=settings.trust_remote_code,
        )


def locate_template(settings: Settings) -> Path | None:
    """The file or folder of --tokenizer-config-path, which may also be a hub id."""
    name = settings.tokenizer_config_path
    if name is None or Path(name).exists():
        return Path(name) if name else None
    reference = parse_reference(name)
    if reference is None:
        raise StartupError(f"--tokenizer-config-path {name}: no such file, and not a hub id")
    with DownloadDisplay() as display:
        return _hub(settings, display.update).fetch(reference, with_weights=False)


def _hub(settings: Settings, progress: Progress) -> Hub:
    access = hub_access()
    cache = settings.huggingface_hub_cache
    return Hub(
        cache_dir=Path(cache) if cache else None,
        token=access.token,
        offline=access.offline,
        progress=progress,
    )
