"""Metrics and logging. Knows numbers and names; must not know text, HTTP or devices."""
