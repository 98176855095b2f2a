"""Speculative decoding on the host side: who drafts, how much, and what was right."""
