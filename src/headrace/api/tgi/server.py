"""What the server says about itself: health, info, metrics."""

import orjson
from starlette.responses import Response

from headrace import __version__
from headrace.api.errors import error_body
from headrace.api.service import Service


async def health(service: Service) -> Response:
    """200 with an empty body, or 503."""
    if service.frontend.is_healthy:
        return Response()
    return Response(error_body("unhealthy", "healthcheck"), 503, media_type="application/json")


async def info(service: Service) -> Response:
    """TGI's `Info`."""
    settings, model = service.settings, service.model
    answer = {
        "model_id": model.model_id,
        "model_sha": model.sha,
        "model_pipeline_tag": model.pipeline_tag,
        "max_concurrent_requests": settings.max_concurrent_requests,
        "max_best_of": settings.max_best_of,
        "max_stop_sequences": settings.max_stop_sequences,
        "max_input_tokens": service.max_input_tokens,
        "max_total_tokens": service.frontend.info.max_total_tokens,
        "validation_workers": settings.validation_workers,
        "max_client_batch_size": settings.max_client_batch_size,
        "router": "text-generation-router",
        "version": __version__,
        "sha": None,
        "docker_label": settings.docker_label,
    }
    return Response(orjson.dumps(answer), media_type="application/json")


async def metrics(service: Service) -> Response:
    """Prometheus text."""
    text = service.metrics.render(service.frontend.stats, service.frontend.info)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")
