"""What the flags about a model's files come to."""

from pathlib import Path

from headrace.config import resolve
from headrace.serve.locate import locate


def test_a_flat_folder_instead_of_the_hub(tmp_path: Path) -> None:
    by_flag = {"model_id": "org/model", "weights_cache_override": str(tmp_path)}
    assert locate(resolve(by_flag, environ={})[0]).path == tmp_path
    by_environment = {"MODEL_ID": "org/model", "WEIGHTS_CACHE_OVERRIDE": str(tmp_path)}
    assert locate(resolve({}, environ=by_environment)[0]).path == tmp_path
