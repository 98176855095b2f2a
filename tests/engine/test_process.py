import sys

import pytest

from headrace.engine.process import launch

CHILD = "import socket, sys; socket.socket(fileno=int(sys.argv[1])).sendall(b'hello'); sys.exit(7)"


async def test_child_gets_the_other_end_and_its_exit_code_is_known() -> None:
    process = await launch([sys.executable, "-c", CHILD])
    assert await process.wait() == 7
    with process.socket as connection:
        assert connection.recv(100) == b"hello"
        assert connection.recv(100) == b""
    process.kill()


async def test_kill_shows_in_the_exit_code() -> None:
    process = await launch([sys.executable, "-c", "import time; time.sleep(60)"])
    process.kill()
    assert await process.wait() == -9
    process.socket.close()


async def test_a_missing_program_is_an_oserror() -> None:
    with pytest.raises(FileNotFoundError):
        await launch(["/no/such/program"])
