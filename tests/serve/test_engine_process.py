"""What the engine process checks before it loads weights."""

from pathlib import Path

import pytest
import tokenizers
from tokenizers.decoders import ByteLevel
from tokenizers.models import BPE

from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.errors import StartupError
from headrace.serve.engine_process import check_drafter
from tests.runner.drafting.drafters import make_medusa, make_model


def test_a_draft_model_must_have_the_models_tokenizer(tmp_path: Path) -> None:
    model = open_checkpoint(embedded_model())
    check_drafter(embedded_model(), model)
    make_model(tmp_path)
    other = tokenizers.Tokenizer(BPE(vocab={"a": 0, "b": 1}, merges=[]))
    other.decoder = ByteLevel()
    other.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(StartupError, match="its tokenizer gives other ids to tokens"):
        check_drafter(tmp_path, model)


def test_heads_have_no_tokenizer(tmp_path: Path) -> None:
    make_medusa(tmp_path, tmp_path)
    check_drafter(tmp_path, open_checkpoint(embedded_model()))
