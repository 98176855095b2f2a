"""GET /v1/models."""

import orjson
from starlette.responses import Response

from headrace.api.service import Service


async def list_models(service: Service) -> Response:
    """The one served model."""
    model_id = service.model.model_id
    model = {"id": model_id, "object": "model", "created": 0, "owned_by": model_id}
    answer = {"object": "list", "data": [model]}
    return Response(orjson.dumps(answer), media_type="application/json")
