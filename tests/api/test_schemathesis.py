"""Whatever the OpenAPI document allows, and much that it does not: no 5xx, errors of one shape."""

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from msgspec.structs import replace
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from headrace.api.app import build_app
from headrace.api.endpoint import Route
from headrace.api.routes import ROUTES
from headrace.api.service import ServedModel
from headrace.checkpoint.checkpoint import open_checkpoint
from headrace.checkpoint.embedded import embedded_model
from headrace.config import Settings
from headrace.observability.metrics import Metrics
from headrace.text.chat import load_chat_template
from headrace.text.fake import FakeClient
from headrace.text.frontend import Frontend
from headrace.text.tokenizer import load_tokenizer
from tests.api.fake_frontend import INFO

pytestmark = pytest.mark.slow

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def document() -> Iterator[schemathesis.BaseSchema]:
    checkpoint = open_checkpoint(embedded_model())
    tokenizer = load_tokenizer(checkpoint)
    template = load_chat_template(checkpoint, tokenizer.bos_token, tokenizer.eos_token)
    info = replace(INFO, max_total_tokens=96, vocab_size=49152)
    frontend = Frontend(FakeClient(info=info), tokenizer, template)
    app = build_app(frontend, Settings(), ServedModel(model_id="org/model"), Metrics(95, 96))
    yield schemathesis.openapi.from_asgi("/api-doc/openapi.json", app)
    frontend.close()


CASES = [
    pytest.param(route, mode, id=f"{route.method} {route.path} {mode.value}")
    for route in ROUTES
    for mode in GenerationMode
    if route.body is not None or mode is GenerationMode.POSITIVE
]


@pytest.mark.parametrize(("route", "mode"), CASES)
def test_any_request(document: schemathesis.BaseSchema, route: Route, mode: GenerationMode) -> None:
    operation = document[route.path][route.method]

    @settings(max_examples=12, suppress_health_check=list(HealthCheck))
    @given(operation.as_strategy(generation_mode=mode))
    def check(case: schemathesis.Case) -> None:
        case.call_and_validate(checks=CHECKS)

    check()
