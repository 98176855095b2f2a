"""Text Generation Inference's own routes, to the byte."""
