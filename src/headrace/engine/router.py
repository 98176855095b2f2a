"""Which of several replicas gets a request: the one that will have computed its prompt first.

Knows what was sent where, and from that what the replicas' prefix caches hold about; asks nobody.
"""

from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from headrace.engine.blocks import chain_digest, root_digest
from headrace.types import Add

PREFIX_STEP: Final = 32
"""Tokens between two points at which a prefix is remembered."""
STREAM_COST: Final = 64
"""Prompt tokens whose computation delays a newcomer as much as one more running stream does.

A shared prefix of n tokens stays on one replica until it has n / 64 streams more than another."""


@dataclass(slots=True)
class Route:
    """Where a request went, and what it still costs there."""

    replica: int
    missing: int
    """Prompt tokens that it has to compute, as far as they are not computed yet."""


@dataclass(slots=True)
class _Load:
    streams: int = 0
    missing: int = 0

    @property
    def cost(self) -> int:
        return self.missing + STREAM_COST * self.streams


@dataclass(slots=True)
class Router:
    """Prefix-aware and load-aware, for any number of replicas that come and go."""

    capacity: int = 10_000
    """Points of prefixes that are remembered, as many as the replicas' caches may hold; 0: where
    there is one replica, there is nothing to choose."""
    _holders: OrderedDict[bytes, int] = field(default_factory=OrderedDict)
    """By digest of a prefix: the replicas that computed it, one bit each."""
    _loads: defaultdict[int, _Load] = field(default_factory=lambda: defaultdict(_Load))

    def choose(self, add: Add, candidates: Iterable[int]) -> Route:
        """The cheapest of `candidates`, which gets the request."""
        tokens = add.prompt_ids + add.output_ids
        digests = list(_digests(tokens, add.cache_salt)) if self.capacity else []
        matched = self._matched(digests)
        replica = min(
            candidates,
            key=lambda index: self._loads[index].cost - PREFIX_STEP * matched.get(index, 0),
        )
        self._remember(digests, replica)
        route = Route(replica, len(tokens) - PREFIX_STEP * matched.get(replica, 0))
        self._loads[replica].streams += 1
        self._loads[replica].missing += route.missing
        return route

    @property
    def num_points(self) -> int:
        return len(self._holders)

    def num_streams(self, replica: int) -> int:
        return self._loads[replica].streams

    def begin_decode(self, route: Route) -> None:
        """The request's first token has come; nothing happens at later ones."""
        self._loads[route.replica].missing -= route.missing
        route.missing = 0

    def end(self, route: Route) -> None:
        """The request is no longer with its replica."""
        self.begin_decode(route)
        self._loads[route.replica].streams -= 1

    def forget(self, replica: int) -> None:
        """The replica has lost its cache; its requests end on their own."""
        others = ~(1 << replica)
        kept = ((digest, holders & others) for digest, holders in self._holders.items())
        self._holders = OrderedDict((digest, holders) for digest, holders in kept if holders)

    def _matched(self, digests: list[bytes]) -> dict[int, int]:
        """By replica, how many leading points of the prompt it holds, if any."""
        matched: dict[int, int] = {}
        alive = ~0
        for count, digest in enumerate(digests, start=1):
            alive &= self._holders.get(digest, 0)
            if not alive:
                break
            for replica in _bits(alive):
                matched[replica] = count
        return matched

    def _remember(self, digests: list[bytes], replica: int) -> None:
        # The beginning last: without it what follows could not be found.
        for digest in reversed(digests):
            self._holders[digest] = self._holders.pop(digest, 0) | 1 << replica
        while len(self._holders) > self.capacity:
            self._holders.popitem(last=False)


def _digests(tokens: list[int], salt: str) -> Iterator[bytes]:
    """Names of the prefixes that end at each whole step; the last token is always computed."""
    digest = root_digest(salt)
    for begin in range(0, len(tokens) - PREFIX_STEP, PREFIX_STEP):
        digest = chain_digest(digest, tokens[begin : begin + PREFIX_STEP])
        yield digest


def _bits(mask: int) -> Iterator[int]:
    while mask:
        yield (mask & -mask).bit_length() - 1
        mask &= mask - 1
