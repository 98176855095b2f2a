from types import SimpleNamespace
from typing import Any

import pytest

from headrace.errors import StartupError
from headrace.models.transformers.positions import longest_context, override_rope


@pytest.mark.parametrize(
    "fields, longest",
    [
        ({"max_position_embeddings": 512}, 512),
        ({"seq_length": 2048}, 2048),
        (
            {"max_position_embeddings": 512, "rope_parameters": {"rope_type": "dynamic"}},
            512,
        ),
        (
            {
                "max_position_embeddings": 4096,
                "rope_parameters": {
                    "rope_type": "longrope",
                    "original_max_position_embeddings": 256,
                },
            },
            256,
        ),
        (
            {
                "max_position_embeddings": 512,
                "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}},
            },
            512,
        ),
    ],
)
def test_longest_context(fields: dict[str, Any], longest: int) -> None:
    assert longest_context(SimpleNamespace(**fields)) == longest


def test_a_config_that_is_silent() -> None:
    with pytest.raises(StartupError, match="config.json has no max_position_embeddings or"):
        longest_context(SimpleNamespace(max_position_embeddings=None))


def test_overriding_keeps_the_base_and_stretches() -> None:
    config = SimpleNamespace(
        max_position_embeddings=512, rope_parameters={"rope_type": "default", "rope_theta": 5e5}
    )
    override_rope(config, {"rope_type": "linear", "factor": 4.0})
    assert config.rope_parameters == {"rope_theta": 5e5, "rope_type": "linear", "factor": 4.0}
    assert longest_context(config) == 2048


@pytest.mark.parametrize("rope", [None, {"full_attention": {"rope_theta": 1.0}}])
def test_overriding_needs_one_rotary_embedding(rope: dict[str, Any] | None) -> None:
    with pytest.raises(StartupError, match="--rope-scaling linear"):
        override_rope(SimpleNamespace(rope_parameters=rope), {"rope_type": "linear", "factor": 2})
