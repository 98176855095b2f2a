"""The fallback: causal language models that run on transformers' own modelling code, with their
attention on our paged KV cache. Imported only when a checkpoint needs it.
"""
