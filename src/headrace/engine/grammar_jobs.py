"""All work on grammars, in threads beside the engine's loop, so that no grammar holds it up.

A request waits here until its grammar is compiled; its masks are computed here from step to step.
Every method belongs to the loop's thread; none waits longer than its constant says.
"""

from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Any, Final

from headrace.engine.constraint import Constraint
from headrace.engine.grammar import GrammarCompiler
from headrace.engine.speculation.by_salt import BySalt
from headrace.engine.speculation.habits import Habits
from headrace.errors import ValidationError
from headrace.types import Add

NUM_COMPILE_THREADS: Final = 2
NUM_MASK_THREADS: Final = 2
PATIENCE_SECONDS: Final = 0.003
"""What a step waits for its masks; a request whose mask comes later misses that step."""
IDLE_SECONDS: Final = 0.02
"""What the loop sleeps between looks at its commands, while grammars are all that it waits for."""


class GrammarJobs:
    """Compiles grammars and advances constraints."""

    def __init__(self, compiler: GrammarCompiler, max_lookahead: int = 0) -> None:
        """`max_lookahead`: tokens beyond the next one that a request's grammar is asked about."""
        self._compiler = compiler
        self._max_lookahead = max_lookahead
        self._habits = BySalt(Habits)
        self._compile_threads = ThreadPoolExecutor(NUM_COMPILE_THREADS, "grammar")
        self._mask_threads = ThreadPoolExecutor(NUM_MASK_THREADS, "mask")
        self._compiling: dict[int, tuple[Add, Future[Constraint]]] = {}
        self._masks: dict[Future[None], int] = {}
        self._new_masks: list[Future[None]] = []

    @property
    def num_compiling(self) -> int:
        return len(self._compiling)

    def start(self, add: Add) -> None:
        """Compile the grammar of a request, or find it compiled."""
        habits = self._habits.of(add.cache_salt)
        future = self._compile_threads.submit(self._constraint, add, habits)
        self._compiling[add.request_id] = add, future

    def discard(self, request_id: int) -> None:
        """Forget a request that waits for its grammar; unknown ids are ignored."""
        if waiting := self._compiling.pop(request_id, None):
            waiting[1].cancel()

    def _constraint(self, add: Add, habits: Habits) -> Constraint:
        assert add.params.grammar is not None
        matcher = self._compiler.matcher(add.params.grammar)
        submit = partial(self._submit, add.request_id)
        return Constraint(matcher, add.output_ids, submit, habits, self._max_lookahead)

    def _submit(self, request_id: int, job: Callable[[], None]) -> None:
        future = self._mask_threads.submit(job)
        self._masks[future] = request_id
        self._new_masks.append(future)

    def settle(self) -> None:
        """Give the masks that were asked for since the last call a moment to get ready."""
        new_masks, self._new_masks = self._new_masks, []
        if new_masks:
            wait(new_masks, PATIENCE_SECONDS)

    def idle(self) -> None:
        """Wait a moment for anything at all; returns at once when there is nothing to do."""
        futures: list[Future[Any]] = [
            *self._masks,
            *(future for _, future in self._compiling.values()),
        ]
        if futures:
            wait(futures, IDLE_SECONDS, FIRST_COMPLETED)

    def collect(self) -> tuple[list[tuple[Add, Constraint]], dict[int, str]]:
        """Requests that can run from now on, and by request id what is wrong with a grammar."""
        compiled, failed = [], {}
        for request_id, (add, compilation) in list(self._compiling.items()):
            if compilation.done():
                del self._compiling[request_id]
                try:
                    compiled.append((add, compilation.result()))
                except ValidationError as error:
                    failed[request_id] = str(error)
        for future in [future for future in self._masks if future.done()]:
            request_id = self._masks.pop(future)
            try:
                future.result()
            except ValidationError as error:
                failed[request_id] = str(error)
        return compiled, failed
