"""Names of the tensors in safetensors and PyTorch files, without reading tensors.

A PyTorch file is a pickle, which is code: its words are read, and none of it is run.
Source: the two layouts of `torch.save`, a zip archive and (before 1.6) a chain of pickles.
"""

import pickletools
import zipfile
from pathlib import Path
from typing import IO

from headrace.checkpoint.safetensors import header
from headrace.errors import CheckpointError

LEGACY_PICKLES = 4
"""Magic number, protocol, system, and the fourth is the object itself."""


def tensor_names(files: tuple[Path, ...]) -> set[str]:
    """Names of all tensors in the files (and some other words of .bin files).

    Raises CheckpointError for a file that is truncated or damaged.
    """
    return {name for path in files for name in _names(path)}


def _names(path: Path) -> set[str]:
    if path.suffix == ".safetensors":
        return set(header(path)) - {"__metadata__"}
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return _words(file, LEGACY_PICKLES)
        with zipfile.ZipFile(path) as archive:
            name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
            with archive.open(name) as member:
                return _words(member, 1)
    except (OSError, ValueError, IndexError, StopIteration, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{path}: not a usable PyTorch file: {error}") from None


def _words(file: IO[bytes], pickles: int) -> set[str]:
    return {
        argument
        for _ in range(pickles)
        for _, argument, _ in pickletools.genops(file)
        if isinstance(argument, str)
    }
