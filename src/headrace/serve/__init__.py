"""Composition root: the only package that knows both the host side and the device side."""
