"""What routing costs at many replicas: time per request, and memory of what is remembered.

python -m bench.router
"""

import random
import statistics
import time
import tracemalloc

from headrace.engine.router import Route, Router
from headrace.types import Add, SamplingParams

PREFIX, OWN = 1000, 200
"""Tokens of a prompt, shared with others of its family and not."""
FAMILIES = 100
CAPACITY = 100_000


def requests(count: int) -> list[Add]:
    chance = random.Random(1)
    families = [[chance.randrange(50_000) for _ in range(PREFIX)] for _ in range(FAMILIES)]
    params = SamplingParams(max_tokens=100)
    return [
        Add(
            request_id=number,
            prompt_ids=chance.choice(families) + [chance.randrange(50_000) for _ in range(OWN)],
            params=params,
        )
        for number in range(count)
    ]


def route_all(router: Router, num_replicas: int, adds: list[Add]) -> list[float]:
    """Seconds per request, with sixteen streams a replica."""
    routes, times = list[Route](), []
    for add in adds:
        begin = time.perf_counter()
        route = router.choose(add, range(num_replicas))
        times.append(time.perf_counter() - begin)
        router.begin_decode(route)
        routes.append(route)
        if len(routes) > 16 * num_replicas:
            router.end(routes.pop(0))
    return times


def measure(num_replicas: int, adds: list[Add]) -> None:
    times = route_all(Router(capacity=CAPACITY), num_replicas, adds)
    tracemalloc.start()
    router = Router(capacity=CAPACITY)
    route_all(router, num_replicas, adds)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(
        f"{num_replicas:5} replicas: {statistics.median(times) * 1e6:6.0f} us a request, "
        f"{size / 2**20:5.1f} MiB for {router.num_points} points"
    )


if __name__ == "__main__":
    adds = requests(5_000)
    for num_replicas in (1, 8, 100, 1000):
        measure(num_replicas, adds)
