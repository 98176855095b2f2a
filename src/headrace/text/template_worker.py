"""The process that renders chat templates: one JSON message per line in, one per line out.

The first message is the templates by name; each further one is [name, variables]. An answer is
[true, text] or [false, reason]. The process ends when its input does.
"""

import json
import resource
import signal
import sys

from headrace.text.template import TemplateSet

MAX_MEMORY = 1 << 30
"""Bytes of address space; a template that wants more fails with MemoryError."""


def _describe(error: BaseException) -> str:
    return str(error) or type(error).__name__


def main() -> None:
    """Serve until the end of standard input."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    sources = json.loads(sys.stdin.buffer.readline() or b"{}")
    templates: TemplateSet | None = None
    for line in sys.stdin.buffer:
        try:
            templates = templates or TemplateSet(sources)
            answer = [True, templates.render(*json.loads(line))]
        except Exception as error:  # Whatever a hostile template provokes is an answer.
            answer = [False, _describe(error)]
        sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
