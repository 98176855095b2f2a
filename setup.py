"""The native kernels; all else is in pyproject.toml."""

from setuptools import setup

setup()
