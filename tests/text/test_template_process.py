"""The process survives whatever a template does, and so does the server."""

import time
from collections.abc import Iterator

import pytest

from headrace.errors import TemplateError
from headrace.text.template_process import TemplateProcess

BENIGN = "{{ text }}"


@pytest.fixture
def renderer(request: pytest.FixtureRequest) -> Iterator[TemplateProcess]:
    process = TemplateProcess({"bad": request.param, "good": BENIGN}, max_seconds=60)
    yield process
    process.close()


SLOW = [
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() ~ f() }}{% endmacro %}{% for a in range(99999) %}{{ f() }}{% endfor %}",
    "{% set n = 9 %}{{ 9 ** (9 ** n) }}",
]
BIG = [
    "{% set n = 10 ** 11 %}{{ 'a' * n }}",
    "{% set n = namespace(s='aaaaaaaa') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}"
    "{% endfor %}{{ n.s }}",
    "{{ 'x' | center(10 ** 11) }}",
    "{% set n = 7 * 10 ** 7 %}{{ 'x' * n }}",
    "{{ ('a' * 10 ** 6) | replace('a', 'b' * 10 ** 6) }}",
]
BROKEN = [
    "{% for %}",
    "{{ raise_exception('only users') }}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
]


@pytest.mark.parametrize("renderer", SLOW + BIG + BROKEN[1:], indirect=True)
def test_hostile_templates_fail_in_time_and_others_go_on(
    renderer: TemplateProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert renderer.render("good", {"text": "é\n1"}) == "é\n1"
    with monkeypatch.context() as patch, pytest.raises(TemplateError, match="."):
        patch.setattr(renderer, "_max_seconds", 1.0)  # for this one, whose process has started
        started = time.monotonic()
        renderer.render("bad", {})
    assert time.monotonic() - started < 30
    assert renderer.render("good", {"text": "é\n2"}) == "é\n2"


@pytest.mark.parametrize("renderer", ["{% for %}"], indirect=True)
def test_syntax_errors_are_told(renderer: TemplateProcess) -> None:
    with pytest.raises(TemplateError, match="Expected"):
        renderer.render("bad", {})


@pytest.mark.parametrize("renderer", ["{{ raise_exception('only users') }}"], indirect=True)
def test_the_templates_own_message_is_told(renderer: TemplateProcess) -> None:
    with pytest.raises(TemplateError, match="^only users$"):
        renderer.render("bad", {})


@pytest.mark.parametrize("renderer", [""], indirect=True)
def test_large_texts_pass(renderer: TemplateProcess) -> None:
    text = "é\n\ud800" * 500_000
    assert renderer.render("good", {"text": text}) == text


@pytest.mark.parametrize("renderer", [""], indirect=True)
def test_a_lost_process_is_replaced(renderer: TemplateProcess) -> None:
    renderer.close()
    assert renderer.render("good", {"text": "again"}) == "again"
