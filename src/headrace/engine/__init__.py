"""The engine: which tokens are computed when and where they lie. Knows no text and no torch."""
