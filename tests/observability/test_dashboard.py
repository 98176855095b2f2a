"""docs/grafana.json shows metrics that exist."""

import json
import re
from pathlib import Path

import pytest

from headrace.errors import ValidationError
from headrace.observability.metrics import Metrics
from headrace.types import StepCounts
from tests.observability.test_metrics import INFO, STATS

DASHBOARD = json.loads(Path("docs/grafana.json").read_text())
EXPRESSIONS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel["targets"]
}


def exported() -> set[str]:
    """Names of series, as Prometheus stores them."""
    metrics = Metrics(max_input_tokens=999, max_total_tokens=1000, steps=StepCounts())
    with pytest.raises(ValidationError), metrics.request(lambda error: "validation"):
        raise ValidationError("x")
    names = set()
    for line in metrics.render(STATS, INFO).decode().splitlines():
        if line.startswith("# TYPE"):
            _, _, name, kind = line.split()
            endings = ("_bucket", "_sum", "_count") if kind in ("histogram", "summary") else ("",)
            names |= {f"{name}{ending}" for ending in endings}
        elif not line.startswith("#"):
            names.add(re.split("[{ ]", line)[0])
    return names


@pytest.mark.parametrize("expression", EXPRESSIONS.values(), ids=EXPRESSIONS.keys())
def test_every_metric_is_exported(expression: str) -> None:
    used = set(re.findall(r"\b(?:tgi|headrace)_\w+", expression))
    assert used and used <= exported()


def test_speculation_is_on_it() -> None:
    text = " ".join(EXPRESSIONS.values())
    for name in ("draft_tokens", "accepted_draft_tokens", "draft_steps", "forced_tokens"):
        assert f"headrace_{name}" in text
    assert "tgi_request_skipped_tokens" in text
