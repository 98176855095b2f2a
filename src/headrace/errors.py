"""Every error that a user can cause or see. Programmer errors are assertions.

    HeadraceError
    ├── StartupError            the server cannot start: flag, model or device
    │   └── CheckpointError     a model folder or file is missing, truncated or inconsistent
    ├── RequestError            this request cannot be served; others never notice
    │   ├── ValidationError     a field is out of range or inconsistent with another
    │   ├── TemplateError       the chat template is missing or refused the messages
    │   ├── ToolError           tools or tool_choice cannot be used
    │   ├── OverloadedError     limits on concurrency or queue reached; try again later
    │   └── GenerationError     the engine failed this request
    └── EngineDeadError         the engine process is gone and could not be restarted

`api.errors` maps them to status codes and bodies; nothing else does.
"""


class HeadraceError(Exception):
    """Base of all errors meant for people."""


class StartupError(HeadraceError):
    """The server cannot start; the message names the flag and the next step."""


class CheckpointError(StartupError):
    """A checkpoint cannot be used; the message names file or tensor, expected and found."""


class RequestError(HeadraceError):
    """One request cannot be served."""


class ValidationError(RequestError):
    """A field is wrong; the message names it and what is allowed."""


class TemplateError(RequestError):
    """The chat template is missing or refused the messages."""


class ToolError(RequestError):
    """Tools or tool_choice cannot be used as asked."""


class OverloadedError(RequestError):
    """Too many requests; `retry_after` is the advised wait in seconds."""

    def __init__(self, message: str = "Model is overloaded", retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class GenerationError(RequestError):
    """The engine failed this request during generation."""


class EngineDeadError(HeadraceError):
    """The engine process is gone and could not be restarted."""
