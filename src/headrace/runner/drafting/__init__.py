"""The executor's own drafters: a smaller model, the model itself with narrower weights, heads."""
