"""Prometheus' text format, with TGI's names.

prometheus_client's own writer appends `_total` to every counter and adds `_created` samples, which
TGI's dashboards do not know. `headrace_` counters keep the suffix that the format recommends.
"""

from collections.abc import Iterable

from prometheus_client.metrics_core import Metric

ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _bound(text: str) -> str:
    return text if text == "+Inf" else _number(float(text))


def _name(name: str, kind: str) -> str:
    return name.removesuffix("_total") if kind == "counter" and name.startswith("tgi_") else name


def _labels(labels: dict[str, str]) -> str:
    if not labels:
        return ""
    pairs = (
        f'{key}="{_bound(value) if key == "le" else value.translate(ESCAPES)}"'
        for key, value in labels.items()
    )
    return "{" + ",".join(pairs) + "}"


def _family(metric: Metric) -> Iterable[str]:
    suffix = "_total" if metric.type == "counter" else ""
    name = _name(metric.name + suffix, metric.type)
    yield f"# HELP {name} {metric.documentation}"
    yield f"# TYPE {name} {metric.type}"
    for sample in metric.samples:
        if not sample.name.endswith("_created"):
            sample_name = _name(sample.name, metric.type)
            yield f"{sample_name}{_labels(sample.labels)} {_number(sample.value)}"


def render(metrics: Iterable[Metric]) -> bytes:
    """The whole text, one blank line after each family."""
    return "".join("\n".join(_family(metric)) + "\n\n" for metric in metrics).encode()
