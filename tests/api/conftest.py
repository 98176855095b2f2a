from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from headrace.api.app import build_app
from headrace.api.service import ServedModel
from headrace.config import Settings
from headrace.observability.metrics import Metrics
from tests.api.fake_frontend import INFO, FakeFrontend

AppOf = Callable[..., Starlette]


@pytest.fixture
def frontend() -> FakeFrontend:
    return FakeFrontend()


@pytest.fixture
def app_of(frontend: FakeFrontend) -> AppOf:
    """The application with some settings, and a model called `org/model`."""

    def make(*, pipeline_tag: str | None = None, **settings: Any) -> Starlette:
        model = ServedModel(model_id="org/model", sha="abc", pipeline_tag=pipeline_tag)
        metrics = Metrics(INFO.max_total_tokens - 1, INFO.max_total_tokens)
        return build_app(frontend, Settings(**settings), model, metrics)

    return make


@pytest.fixture
async def client(app_of: AppOf) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(app_of()) as client:
        yield client


def client_of(app: Starlette) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://server")


@pytest.fixture
def connect() -> Callable[[Starlette], httpx.AsyncClient]:
    return client_of
