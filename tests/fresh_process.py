"""Processes in which nothing was freed yet, so that what takes memory shows; their server has done
the slow imports."""

import multiprocessing
from collections.abc import Callable
from typing import Any

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["headrace.models.load", "transformers"])


def in_a_fresh_process(function: Callable[..., Any], *arguments: Any) -> Any:
    with CONTEXT.Pool(1) as pool:
        return pool.apply(function, arguments)
