"""Get the files that the settings name, and show people how far their download is."""

import logging
import subprocess
import sys
from pathlib import Path

from headrace.checkpoint import locate as models
from headrace.checkpoint.download import Progress
from headrace.checkpoint.hub import Hub, parse_reference
from headrace.checkpoint.locate import Located
from headrace.checkpoint.weight_files import weight_files
from headrace.config import Settings, hub_access
from headrace.errors import StartupError
from headrace.observability import logging as log_setup
from headrace.serve.download_display import DownloadDisplay

log = logging.getLogger(__name__)


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
    name = settings.weights_cache_override or settings.model_id
    with_weights = settings.load_format != "dummy"
    with DownloadDisplay() as display:
        located = models.locate(
            name,
            _hub(settings, display.update),
            settings.revision,
            settings.draft_model_id,
            with_weights=with_weights,
            with_code=settings.trust_remote_code,
        )
    is_local = name is None or Path(name).expanduser().exists()
    if with_weights and not is_local and located.path.is_dir():
        _convert(located.path)
    return located


def _convert(folder: Path) -> None:
    """Once, of a model that the hub has in .bin only; people's own folders stay as they are."""
    kind, files = weight_files(folder, [path.name for path in folder.iterdir()])
    if kind != "pytorch":
        return
    log.info("converting %s to safetensors", ", ".join(files))
    command = [sys.executable, "-m", "headrace.weights.convert", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        log.warning("not converted: %s", done.stderr.strip().splitlines()[-1])


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
