"""A model on several real ranks against the same model on one, token for token in float32."""

from pathlib import Path
from typing import Any

import pytest

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.distributed.ranks import Ranks
from headrace.distributed.shard import allowed_sizes
from headrace.errors import StartupError
from headrace.models import spec_of
from headrace.models.load import check_num_ranks
from tests.distributed.rank_group import RankGroup
from tests.models.checkpoints import ALL_CASES, BASE, BASES, cases_of, make_checkpoint
from tests.models.driver import ENGINES, Driver
from tests.models.test_decoder import random_prompts
from tests.models.transformers.checkpoints import FALLBACK
from tests.quantization.checkpoints import write_quantized
from tests.quantization.formats import FORMATS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def wide(architecture: str, name: str) -> dict[str, Any]:
    """The case with MLPs of five groups of 32, as the kernels need them: uneven, and enough for
    four ranks."""
    is_llama_like = "intermediate_size" in BASES.get(architecture, BASE)
    return cases_of(architecture)[name] | ({"intermediate_size": 160} if is_llama_like else {})


def allowed(path: Path) -> list[int]:
    attention = spec_of(open_checkpoint(path).config).layers[0].attention
    return allowed_sizes(attention.num_heads, attention.num_kv_heads)


def drive_ranks(ranks: Ranks | None, path: Path, engine: str) -> Driver:
    sizes = {"ranks": ranks, "max_tokens": 512, "max_logit_rows": 48} if ranks else {}
    return ENGINES[engine](path, **sizes)


def greedy(ranks: Ranks | None, path: Path, engine: str, prompts: list[list[int]]) -> Any:
    return drive_ranks(ranks, path, engine).greedy(prompts, 24)


def weight_bytes(ranks: Ranks | None, path: Path, engine: str) -> int:
    return drive_ranks(ranks, path, engine).model.weight_bytes


@pytest.mark.parametrize(
    ("ranks", "engine"),
    [("two_ranks", "torch"), ("two_ranks", "kernels"), ("four_ranks", "kernels")],
)
@pytest.mark.parametrize("case", ALL_CASES)
def test_tokens_are_those_of_one_rank(
    tmp_path: Path, case: tuple[str, str], engine: str, ranks: str, request: pytest.FixtureRequest
) -> None:
    group: RankGroup = request.getfixturevalue(ranks)
    architecture, name = case
    make_checkpoint(tmp_path, architecture, wide(architecture, name))
    if group.size not in allowed(tmp_path):
        with pytest.raises(StartupError, match=f"--num-shard {group.size}"):
            check_num_ranks(open_checkpoint(tmp_path), group.size)
        return
    prompts = random_prompts(5, 33, 12)
    expected = greedy(None, tmp_path, engine, prompts)
    for tokens in group.run(greedy, tmp_path, engine, prompts):
        assert tokens == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", FORMATS)
def test_quantized_layers(tmp_path: Path, name: str, engine: str, two_ranks: RankGroup) -> None:
    """Cut along rows and columns, within groups too."""
    write_quantized(tmp_path, FORMATS[name], intermediate_size=160)
    prompts = random_prompts(5, 33, 12)
    expected = greedy(None, tmp_path, engine, prompts)
    for tokens in two_ranks.run(greedy, tmp_path, engine, prompts):
        assert tokens == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_smollm2_on_three_ranks(engine: str, three_ranks: RankGroup) -> None:
    """In GGUF blocks, with fewer key-value heads than other models have ranks."""
    prompts = [[504, 3575, 282, 4649, 314], [1, 4093, 198, 19556]]
    expected = greedy(None, embedded_model(), engine, prompts)
    for tokens in three_ranks.run(greedy, embedded_model(), engine, prompts):
        assert tokens == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("hosts", ["abcd", "aabc"])
def test_ranks_of_several_hosts(
    tmp_path: Path, engine: str, hosts: str, four_ranks: RankGroup
) -> None:
    make_checkpoint(tmp_path, "LlamaForCausalLM", {"intermediate_size": 160})
    prompts = random_prompts(5, 33, 12)
    expected = greedy(None, tmp_path, engine, prompts)
    for tokens in four_ranks.on(hosts).run(greedy, tmp_path, engine, prompts):
        assert tokens == expected


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "architecture",
    ["ArceeForCausalLM", "Exaone4ForCausalLM", "NemotronForCausalLM", "YoutuForCausalLM"],
)
def test_transformers_models(
    tmp_path: Path, architecture: str, engine: str, two_ranks: RankGroup
) -> None:
    """Cut by the plans of their own classes: tied, with norms of heads, with biases, latent."""
    make_checkpoint(tmp_path, architecture, FALLBACK[architecture])
    prompts = random_prompts(5, 33, 12)
    expected = greedy(None, tmp_path, engine, prompts)
    whole = weight_bytes(None, tmp_path, engine)
    for tokens in two_ranks.run(greedy, tmp_path, engine, prompts):
        assert tokens == expected
    for part in two_ranks.run(weight_bytes, tmp_path, engine):
        assert part < 0.8 * whole


def test_no_rank_keeps_more_than_its_share(tmp_path: Path, two_ranks: RankGroup) -> None:
    make_checkpoint(tmp_path, "LlamaForCausalLM", {"vocab_size": 2000, "intermediate_size": 128})
    whole = weight_bytes(None, tmp_path, "torch")
    for part in two_ranks.run(weight_bytes, tmp_path, "torch"):
        assert part < 0.51 * whole
