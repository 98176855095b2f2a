from collections.abc import Iterator

import pytest

from tests.e2e.server import ServerProcess


@pytest.fixture(scope="session")
def server() -> Iterator[ServerProcess]:
    """The embedded model, as `make serve` serves it."""
    with ServerProcess() as process:
        yield process.wait_ready()
