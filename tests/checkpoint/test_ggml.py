"""Oracle: the gguf package, which mirrors ggml's own tables."""

import gguf
import pytest

from headrace.checkpoint.ggml import GGML_TYPES, GGMLType


@pytest.mark.parametrize("kind", list(GGMLType), ids=lambda kind: kind.name)
def test_number_and_block_are_ggmls(kind: GGMLType) -> None:
    reference = gguf.GGMLQuantizationType[kind.name]
    assert int(kind) == reference.value
    assert (kind.block_size, kind.block_bytes) == gguf.GGML_QUANT_SIZES[reference]
    assert GGML_TYPES[reference.value] is kind
