"""The scripts of bench/ import names from where they are."""

import ast
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    "path", sorted((ROOT / "bench").rglob("*.py")), ids=lambda path: str(path.relative_to(ROOT))
)
def test_every_script_imports(path: Path) -> None:
    try:
        import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    except ModuleNotFoundError as error:
        declared = ast.get_docstring(ast.parse(path.read_text())) or ""
        if f"under a Python that has `{error.name}`" not in declared:
            raise
        pytest.skip(f"runs in another environment, with {error.name}")
