"""Ray Serve's request router with this project's policy; Serve makes it in the front end's process.

Of the replicas that have room, the request goes to the one that `engine.router` prefers.
"""

from typing import Any

import msgspec
from ray.serve.request_router import (
    PendingRequest,
    ReplicaID,
    RequestRouter,
    RunningReplica,
)

from headrace.engine.router import Route, Router
from headrace.types import Add


class PrefixRouter(RequestRouter):
    """Prefix-aware and load-aware."""

    def initialize_state(self, **_: Any) -> None:
        self._router = Router(capacity=100_000)
        self._numbers: dict[ReplicaID, int] = {}
        """Of every replica ever seen; the router wants small numbers."""
        self._routes: dict[str, Route] = {}
        """Of the requests under way, by Serve's own id."""

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Candidates in order of preference, one per rank."""
        if pending_request is None or pending_request.metadata.call_method != "generate":
            return [candidate_replicas]
        request_id = pending_request.metadata.internal_request_id
        self._end(request_id)  # asked again because the one chosen was full
        numbers = {self._number(replica.replica_id): replica for replica in candidate_replicas}
        if not numbers:
            return []
        add = msgspec.msgpack.decode(pending_request.args[0], type=Add)
        route = self._router.choose(add, numbers)
        self._routes[request_id] = route
        chosen = numbers.pop(route.replica)
        return [[chosen], list(numbers.values())]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Serve does not tell when the prompt is computed; running streams count from here on."""
        route = self._routes.get(pending_request.metadata.internal_request_id)
        if route is not None:
            self._router.begin_decode(route)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._end(internal_request_id)

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._router.forget(self._number(replica_id))

    def _number(self, replica_id: ReplicaID) -> int:
        return self._numbers.setdefault(replica_id, len(self._numbers))

    def _end(self, request_id: str) -> None:
        if route := self._routes.pop(request_id, None):
            self._router.end(route)
