"""From a command line and the environment to checked settings.

A flag beats its environment variable (`--model-id` is `MODEL_ID`). What Headrace does not honour is
rejected (or warned about) by name when somebody sets it.
"""

import argparse
import dataclasses
import os
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

import msgspec

from headrace.config.environment import visible_cuda_devices
from headrace.config.settings import MAX_DRAFTS, Settings
from headrace.errors import StartupError

WITHOUT_ENVIRONMENT = {"env"}

PLATFORM_NAMES = {
    "model_id": "HF_MODEL_ID",
    "revision": "HF_MODEL_REVISION",
    "num_shard": "SM_NUM_GPUS",
    "quantize": "HF_MODEL_QUANTIZE",
    "trust_remote_code": "HF_MODEL_TRUST_REMOTE_CODE",
    "port": "AIP_HTTP_PORT",
}
"""What SageMaker and Vertex AI call a setting; its own name goes first."""

IGNORED_ENVIRONMENT = {
    "ATTENTION": "the attention backend follows from the device",
    "USE_FLASH_ATTENTION": "the attention backend follows from the device",
    "PREFILL_CHUNKING": "prompts are always computed in chunks",
    "TGI_WIGGLE_ROOM": "memory is measured, not guessed; see --kv-cache-memory",
    "MAX_IMAGE_FETCH_SIZE": "images are not supported yet",
    "HF_HUB_ENABLE_HF_TRANSFER": "the hub's own client chooses how to download",
    "EXLLAMA_VERSION": "GPTQ weights have one layout here",
    "DISABLE_EXLLAMA": "GPTQ weights have one layout here",
    "USE_CUTLASS_W8A8": "8-bit weights have one layout here",
}
"""What TGI reads from the environment only, and why it has no effect here."""


def environment_names(field: dataclasses.Field[Any]) -> list[str]:
    """MODEL_ID for model_id, then a platform's name for it; none for the flags that TGI reads from
    the command line only."""
    if field.name in WITHOUT_ENVIRONMENT:
        return []
    platform_name = PLATFORM_NAMES.get(field.name)
    return [field.name.upper()] + ([platform_name] if platform_name else [])


def _alternatives(annotation: Any) -> list[Any]:
    # `Literal[...] | None` is the older kind of union.
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
        return [a for a in typing.get_args(annotation) if a is not types.NoneType]
    return [annotation]


def _argument(field: dataclasses.Field[Any], annotation: Any) -> dict[str, Any]:
    (kind,) = _alternatives(annotation)
    help_text = field.metadata["help"].replace("%", "%%")
    if names := environment_names(field):
        help_text += f" [env {', '.join(names)}]"
    if field.metadata["rejected"] or field.metadata["ignored"]:
        help_text += f" ({field.metadata['rejected'] or field.metadata['ignored']})"
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction, "help": help_text}
    if typing.get_origin(kind) is Literal:
        return {"choices": typing.get_args(kind), "help": help_text}
    if typing.get_origin(kind) is list:
        return {"action": "append", "help": help_text, "metavar": "VALUE"}
    return {"type": kind, "help": help_text, "metavar": kind.__name__.upper()}


def add_arguments(parser: argparse.ArgumentParser, only: Collection[str] | None = None) -> None:
    """Add one option per setting (of those in `only`); absent options stay absent, so that the
    environment counts."""
    hints = typing.get_type_hints(Settings)
    for field in dataclasses.fields(Settings):
        if only is not None and field.name not in only:
            continue
        names = [name for name in (field.metadata["short"],) if name]
        names.append("--" + field.name.replace("_", "-"))
        options = _argument(field, hints[field.name])
        parser.add_argument(*names, dest=field.name, default=argparse.SUPPRESS, **options)


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    hints = typing.get_type_hints(Settings)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(Settings):
        name = next((name for name in environment_names(field) if name in environ), None)
        if name is None:
            continue
        text = environ[name]
        (kind,) = _alternatives(hints[field.name])
        raw: Any = text.split(",") if typing.get_origin(kind) is list else text
        if kind is bool:
            raw = {"1": True, "true": True, "0": False, "false": False}.get(text.lower(), text)
        try:
            values[field.name] = msgspec.convert(raw, kind, strict=False)
        except msgspec.ValidationError as error:
            raise StartupError(f"environment variable {name}={text!r}: {error}") from None
    return values


def _check(settings: Settings) -> list[str]:
    """Raise for what cannot be honoured; return warnings for what has no effect."""
    warnings = []
    for field in dataclasses.fields(Settings):
        if getattr(settings, field.name) == field.default:
            continue
        option = "--" + field.name.replace("_", "-")
        if reason := field.metadata["rejected"]:
            raise StartupError(f"{option}: {reason}")
        if reason := field.metadata["ignored"]:
            warnings.append(f"{option} has no effect: {reason}")
    if settings.max_input_tokens is not None and settings.max_input_length is not None:
        raise StartupError("set --max-input-tokens or --max-input-length, not both")
    limit, total = settings.prompt_limit, settings.max_total_tokens
    if limit is not None and total is not None and limit >= total:
        raise StartupError(
            f"--max-input-tokens ({limit}) must be less than --max-total-tokens ({total})"
        )
    if settings.max_replica is not None and not settings.ray:
        raise StartupError("--max-replica needs --ray: this machine does not grow")
    if settings.max_replica is None and settings.replica_requests != Settings.replica_requests:
        warnings.append("--replica-requests has no effect without --max-replica")
    if settings.max_replica is not None and settings.max_replica < settings.num_replica:
        raise StartupError(
            f"--max-replica ({settings.max_replica}) is less than "
            f"--num-replica ({settings.num_replica})"
        )
    for name in ("aip_predict_route", "aip_health_route"):
        if not (getattr(settings, name) or "/").startswith("/"):
            raise StartupError(f"{name.upper()} must begin with a slash")
    if settings.speculate is not None and not 0 <= settings.speculate <= MAX_DRAFTS:
        raise StartupError(f"--speculate must be 0 to {MAX_DRAFTS}")
    if settings.draft_model_id is not None and settings.speculate == 0:
        raise StartupError("--draft-model-id drafts for speculation, which --speculate 0 disables")
    if not 0 < settings.watermark_gamma < 1:
        raise StartupError("--watermark-gamma must be between 0 and 1")
    for name in (
        "validation_workers",
        "max_concurrent_requests",
        "max_client_batch_size",
        "num_replica",
    ):
        if getattr(settings, name) <= 0:
            raise StartupError(f"--{name.replace('_', '-')} must be positive")
    return warnings


def _num_shard(settings: Settings, environment: Mapping[str, str]) -> int:
    """TGI's rules, but for a CPU, which is one device unless --num-shard says otherwise."""
    devices = visible_cuda_devices(environment)
    num_devices = len(devices or ()) if settings.device != "cpu" else 0
    asked = settings.num_shard
    if asked is not None and asked < 1:
        raise StartupError("--num-shard must be positive")
    if settings.sharded == "true":
        if asked is None and num_devices < 2:
            raise StartupError(
                f"--sharded true: CUDA_VISIBLE_DEVICES names {num_devices} devices; set --num-shard"
            )
        if asked == 1:
            raise StartupError("--sharded true needs a --num-shard above 1")
    if asked is not None or settings.sharded == "false":
        return asked or 1
    return max(1, num_devices // settings.num_replica)


def resolve(
    arguments: Mapping[str, Any],
    environ: Mapping[str, str] | None = None,
    defaults: Mapping[str, Any] | None = None,
) -> tuple[Settings, list[str]]:
    """Merge defaults, environment and command line (weakest first), check, and freeze.

    Returns the settings and the warnings about options without effect. Raises StartupError.
    """
    environment = os.environ if environ is None else environ
    merged = {**(defaults or {}), **_from_environment(environment), **arguments}
    asked = Settings(**merged)
    warnings = _check(asked)
    settings = dataclasses.replace(asked, num_shard=_num_shard(asked, environment))
    ignored = [
        f"environment variable {name} has no effect: {reason}"
        for name, reason in IGNORED_ENVIRONMENT.items()
        if name in environment
    ]
    return settings, warnings + ignored


def parse(
    argv: Sequence[str], *, prog: str, defaults: Mapping[str, Any] | None = None
) -> tuple[Settings, list[str]]:
    """Read a command line (see `resolve`)."""
    parser = argparse.ArgumentParser(prog=prog, allow_abbrev=False)
    add_arguments(parser)
    return resolve(vars(parser.parse_args(argv)), defaults=defaults)
