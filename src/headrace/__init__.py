"""Headrace: a server for large language models, the drop-in successor of TGI."""

__version__ = "0.1.0"
