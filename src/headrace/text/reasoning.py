"""Where a model's reasoning begins and ends: markers, and what a prompt says about them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ReasoningMarkers:
    """What stands around reasoning."""

    start: str
    end: str


MARKERS = (
    ReasoningMarkers("<think>", "</think>"),
    ReasoningMarkers("[THINK]", "[/THINK]"),
    ReasoningMarkers("<seed:think>", "</seed:think>"),
    ReasoningMarkers("<reasoning>", "</reasoning>"),
)


def detect_reasoning(source: str) -> ReasoningMarkers | None:
    """The markers that a chat template contains."""
    return next((each for each in MARKERS if each.end in source), None)


def is_opened(prompt: str, markers: ReasoningMarkers, prefill: str | None) -> bool:
    """The reply to this prompt begins inside reasoning.

    Templates open it at the very end of the prompt; so may `prefill`, the beginning of the reply
    that came with the request. What stands earlier in the prompt is other people's text.
    """
    if prefill is None:
        return prompt.rstrip().endswith(markers.start)
    return prefill.rfind(markers.start) > prefill.rfind(markers.end)
