"""The one place that reads flags and environment variables.

`Settings` is the single truth: command line, environment names, `--help` and the table in the
docs derive from its fields. A flag beats its environment variable (`--model-id` is `MODEL_ID`).
A flag that TGI has and Headrace does not honour carries the reason, and is rejected (or warned
about) by name when somebody sets it.
"""

import argparse
import dataclasses
import os
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

from headrace.errors import StartupError

QuantizeName = Literal[
    "awq", "compressed-tensors", "eetq", "exl2", "gptq", "marlin",
    "bitsandbytes", "bitsandbytes-nf4", "bitsandbytes-fp4", "fp8", "int4", "int8",
]  # fmt: skip

DEFAULT_DRAFTS = 24
MAX_DRAFTS = 64


def flag(
    default: Any,
    help: str,
    *,
    short: str = "",
    rejected: str = "",
    ignored: str = "",
) -> Any:
    """Declare one setting.

    `rejected`: why a value other than the default stops the start. `ignored`: why such a value
    has no effect here (a warning says so).
    """
    metadata = {"help": help, "short": short, "rejected": rejected, "ignored": ignored}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything that can be set from outside, in TGI's names first."""

    # --- model
    model_id: str | None = flag(
        None,
        "hub id (org/name, org/name/file.gguf, org/name:Q4_K_M), local folder or .gguf file; "
        "without it the embedded SmolLM2-135M-Instruct",
    )
    revision: str | None = flag(None, "branch, tag or commit of the hub repository")
    quantize: QuantizeName | None = flag(
        None,
        "quantize while loading (int4, int8, eetq, fp8, bitsandbytes...); a quantized checkpoint "
        "says itself how it is stored",
    )
    speculate: int | None = flag(
        None,
        "tokens to draft per request and step, at most; default: 24 with a drafter, else "
        "0, which is no speculation",
    )
    draft_model_id: str | None = flag(
        None,
        "what drafts: a smaller model with the same tokenizer, Medusa heads or an MLP speculator "
        "(hub id, folder or .gguf file); self: the model itself with 4-bit weights",
    )
    dtype: Literal["float16", "bfloat16", "float32"] | None = flag(
        None, "arithmetic of the model; default: the checkpoint's on CUDA, float32 on the CPU"
    )
    kv_cache_dtype: Literal[
        "auto", "float32", "float16", "bfloat16", "int8", "fp8_e4m3fn", "fp8_e5m2"
    ] = flag(
        "auto", "type of the cached keys and values; int8 is the CPU kernels', fp8 plain torch's"
    )  # fmt: skip
    trust_remote_code: bool = flag(False, "run code that comes with the model")
    rope_scaling: Literal["linear", "dynamic"] | None = flag(
        None, "override the model's RoPE scaling"
    )
    rope_factor: float | None = flag(
        None, "factor of --rope-scaling; alone it means linear scaling"
    )
    tokenizer_config_path: str | None = flag(
        None, "file, folder or hub id that has the chat template"
    )
    lora_adapters: str | None = flag(
        None, "repo, repo@revision or name=/path, comma-separated",
        rejected="LoRA adapters are not implemented yet",
    )  # fmt: skip
    load_format: Literal["auto", "dummy"] = flag(
        "auto", "dummy: random weights of the model's shape, for measuring"
    )
    huggingface_hub_cache: str | None = flag(None, "folder of the hub's cache")
    weights_cache_override: str | None = flag(
        None, "flat folder with weights, config and tokenizer, instead of the hub's cache"
    )

    # --- devices
    device: Literal["auto", "cpu", "cuda"] = flag("auto", "auto: CUDA when there is one")
    kernels: Literal["auto", "native", "torch"] = flag(
        "auto", "native: fail without the compiled kernels; torch: use their plain twins"
    )
    activations: Literal["auto", "int8", "float32"] = flag(
        "auto",
        "what the CPU kernels multiply quantized weights with: int8, exact and slow float32, or "
        "auto, which is int8, but for tokens of prompts bfloat16 where the CPU has AMX",
    )
    cpu_threads: int | None = flag(
        None,
        "compute threads of all ranks of a replica; default: the cores this process may use, with "
        "--ray those of the smallest node",
    )
    sharded: Literal["true", "false"] | None = flag(
        None, "true: split the model over all visible CUDA devices; false: do not"
    )
    num_shard: int | None = flag(
        None, "ranks (processes) to split the model over; default: one per visible CUDA device"
    )
    num_replica: int = flag(
        1, "engines side by side, each with the whole model and its share of cores or devices"
    )
    ray: bool = flag(
        False, "put the replicas on the nodes of the running Ray cluster (see RAY_ADDRESS)"
    )
    max_replica: int | None = flag(
        None, "with --ray: scale between --num-replica and this, by the requests per replica"
    )
    replica_requests: int = flag(
        32, "with --max-replica: running and waiting requests that one replica should have"
    )
    cuda_memory_fraction: float = flag(1.0, "share of the GPU's memory that may be used")
    cuda_graphs: str | None = flag(
        None, "batch sizes to capture; 0 disables", ignored="CUDA graphs are not captured yet"
    )
    disable_custom_kernels: bool = flag(False, "same as --kernels torch")
    kv_cache_memory: int | None = flag(
        None, "bytes of each rank's KV cache; default: a share of what the process may use"
    )
    master_addr: str = flag(
        "localhost",
        "rendezvous host of several ranks",
        ignored="with --ray ranks meet at the node of the first, else on this machine",
    )
    master_port: int = flag(
        29500, "rendezvous port of several ranks", ignored="ranks agree on a free port"
    )
    shard_uds_path: str = flag(
        "/tmp/text-generation-server", "socket prefix of TGI's shards",
        ignored="the engine process is reached through an inherited socket",
    )  # fmt: skip

    # --- limits
    max_concurrent_requests: int = flag(128, "requests in the server at once; more get 429")
    max_best_of: int = flag(2, "largest best_of and n")
    max_stop_sequences: int = flag(4, "largest number of stop sequences")
    max_top_n_tokens: int = flag(5, "largest top_n_tokens and top_logprobs")
    max_input_tokens: int | None = flag(None, "longest prompt; default: max_total_tokens - 1")
    max_input_length: int | None = flag(None, "old name of --max-input-tokens")
    max_total_tokens: int | None = flag(
        None, "prompt and new tokens of one request; default: what model and memory allow"
    )
    max_batch_prefill_tokens: int | None = flag(None, "token budget of one step")
    max_batch_total_tokens: int | None = flag(None, "tokens in the KV cache; default: measured")
    max_batch_size: int | None = flag(None, "requests that run at once; default 256")
    waiting_served_ratio: float = flag(
        0.3, "TGI's batching knob", ignored="prompts and decodes always share a step"
    )
    max_waiting_tokens: int = flag(
        20, "TGI's batching knob", ignored="prompts and decodes always share a step"
    )
    max_client_batch_size: int = flag(4, "prompts in one /v1/completions call")
    validation_workers: int = flag(2, "tokenizer threads")
    payload_limit: int = flag(2_000_000, "bytes of a request body; more get 413")
    prefix_caching: bool = flag(True, "keep finished blocks for requests that share a prefix")
    separate_reasoning: bool = flag(
        True, "put a model's reasoning into reasoning_content instead of content"
    )
    disable_grammar_support: bool = flag(False, "refuse grammars")
    enable_prefill_logprobs: bool = flag(
        False, "log-probabilities of prompts (always available on request here)",
        ignored="prompt log-probabilities are computed whenever a request asks for them",
    )  # fmt: skip

    # --- server
    hostname: str = flag("0.0.0.0", "address to listen on")
    port: int = flag(3000, "port to listen on", short="-p")
    prometheus_port: int = flag(
        9000, "TGI's metrics port", ignored="metrics are served at /metrics on --port, as in TGI"
    )
    api_key: str | None = flag(None, "clients must send it as a bearer token")
    tgi_compat: bool = flag(
        False, "on OpenAI's routes do as TGI: finish reasons, stop text, empty ids, errors"
    )
    aip_predict_route: str | None = flag(None, "path that answers as /vertex does, for Vertex AI")
    aip_health_route: str | None = flag(None, "path that answers as /health does, for Vertex AI")
    compute_type: str | None = flag(
        None, "the x-compute-type header of answers; default: the device's name"
    )
    docker_label: str | None = flag(None, "docker_label in /info")
    cors_allow_origin: list[str] | None = flag(None, "allowed origin; repeat for several")
    json_output: bool = flag(False, "log lines as JSON")
    log_level: str = flag("info", "debug, info, warning or error")
    otlp_endpoint: str | None = flag(
        None, "OpenTelemetry collector that takes spans over gRPC; needs the extra `tracing`"
    )
    otlp_service_name: str = flag("text-generation-inference.router", "service name in traces")
    graceful_termination_timeout: int = flag(
        90, "seconds that running requests get after SIGTERM", short="-g"
    )
    watermark_gamma: float = flag(
        0.5, "share of the vocabulary that a watermark prefers after each token"
    )
    watermark_delta: float = flag(2.0, "what a watermark adds to the logits of that share")
    usage_stats: Literal["on", "off", "no-stack"] = flag(
        "off", "TGI's telemetry", ignored="Headrace sends no telemetry"
    )
    ngrok: bool = flag(False, "tunnel", rejected="ngrok does not work in TGI 3 either")
    ngrok_authtoken: str | None = flag(None, "tunnel", rejected="see --ngrok")
    ngrok_edge: str | None = flag(None, "tunnel", rejected="see --ngrok")
    env: bool = flag(False, "print the run-time environment, then go on", short="-e")

    def max_num_drafts(self, *, has_drafter: bool) -> int:
        """Tokens drafted per request and step, at most. `has_drafter`: of the executor's own."""
        if self.speculate is None:
            return DEFAULT_DRAFTS if has_drafter else 0
        return self.speculate

    @property
    def prompt_limit(self) -> int | None:
        """The longest prompt as asked for under either name."""
        return self.max_input_tokens if self.max_input_length is None else self.max_input_length


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


@dataclass(frozen=True)
class HubAccess:
    """What the environment says about the Hugging Face hub."""

    token: str | None
    offline: bool


def hub_access(environ: Mapping[str, str] | None = None) -> HubAccess:
    """Read HF_TOKEN (or its older names) and HF_HUB_OFFLINE."""
    environment = os.environ if environ is None else environ
    names = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_API_TOKEN")
    token = next((environment[name] for name in names if environment.get(name)), None)
    offline = environment.get("HF_HUB_OFFLINE", "").lower() in {"1", "true", "yes", "on"}
    return HubAccess(token=token, offline=offline)


def visible_cuda_devices(environ: Mapping[str, str] | None = None) -> list[str] | None:
    """What CUDA_VISIBLE_DEVICES names; None without it, which means all."""
    names = (os.environ if environ is None else environ).get("CUDA_VISIBLE_DEVICES")
    if names is None:
        return None
    return [name.strip() for name in names.split(",") if name.strip() not in {"", "-1", "void"}]


def ray_address(environ: Mapping[str, str] | None = None) -> tuple[str, int] | None:
    """Host and port in RAY_ADDRESS; None where it names none ("auto", or no value)."""
    value = (os.environ if environ is None else environ).get("RAY_ADDRESS", "")
    host, _, port = value.removeprefix("ray://").rpartition(":")
    return (host, int(port)) if host and port.isdecimal() else None


def child_environment(
    cuda_devices: Sequence[str] = (), interface: str | None = None
) -> dict[str, str]:
    """What the engine process inherits: everything, plus OpenMP threads that sleep when idle.

    The front end shares the cores with it, so torch's worker threads must not spin between
    parallel regions. `cuda_devices`: those that it shall see, if not all. `interface`: of the
    network on which it meets ranks of other hosts, unless the environment says so.
    """
    environment = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000", **os.environ}
    if cuda_devices:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(cuda_devices)
    if interface is not None:
        for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
            environment.setdefault(name, interface)
    return environment
