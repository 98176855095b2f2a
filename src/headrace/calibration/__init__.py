"""Quantized checkpoints made from float ones: GPTQ with a calibration text, or rounding.

Runs the model's own decoder, one layer at a time, in float32. Takes token ids, knows no text.
"""

from headrace.calibration.recipe import Recipe
from headrace.calibration.run import Perplexity, quantize
from headrace.calibration.windows import Windows, cut_windows

__all__ = ["Recipe", "Perplexity", "Windows", "cut_windows", "quantize"]
