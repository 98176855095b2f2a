"""Sampling in plain torch, on any device: the twin of csrc/sample.cpp."""
