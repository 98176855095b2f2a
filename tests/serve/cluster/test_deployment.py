"""The class as Ray Serve uses it, without Ray Serve."""

import json
import sys
from pathlib import Path

import msgspec
import pytest

from headrace.config import Settings
from headrace.engine.process import ChildProcess, launch
from headrace.serve.cluster import deployment
from headrace.types import EngineInfo, TokenEvent
from tests.engine import fake_engine
from tests.engine.oracle import expected, make_add

ROOT = Path(__file__).parent.parent.parent.parent


async def fake_launch(previous: EngineInfo | None) -> ChildProcess:
    return await launch([sys.executable, "-m", "tests.engine.fake_engine", json.dumps({})])


async def test_it_streams_and_says_how_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(deployment, "locate", lambda settings: Path())
    monkeypatch.setattr(deployment, "launches", lambda settings, path: [fake_launch])
    replica = deployment.EngineReplica.__new__(deployment.EngineReplica)
    await replica.__init__(Settings(), {})  # type: ignore[misc]
    try:
        add = make_add(7, [1, 2, 3], 9)
        for _ in range(2):  # the same id again, as from another front end
            tokens: list[int] = []
            async for message in replica.generate(msgspec.msgpack.encode(add)):
                tokens += msgspec.msgpack.decode(message, type=TokenEvent).token_ids
            assert tokens == expected(add, fake_engine.VOCAB_SIZE)[0]
        await replica.check_health()
        assert (await replica.info()).vocab_size == fake_engine.VOCAB_SIZE
        report = await replica.report()
        assert report.stats.num_running == 0
        assert report.steps["tgi_batch_inference_count", "decode", -1] > 0
    finally:
        await replica._engine.close()
    with pytest.raises(RuntimeError, match="down"):
        await replica.check_health()
