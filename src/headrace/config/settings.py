"""Every setting: its name, default, help, and whether Headrace honours it.

Command line, environment names, `--help` and the table in the docs derive from these fields. A flag
that TGI has and Headrace does not honour carries the reason.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

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
    ] = flag("auto", "type of the cached keys and values; int8 is the CPU kernels'")  # fmt: skip
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
