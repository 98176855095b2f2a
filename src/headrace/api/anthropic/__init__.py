"""Anthropic's Messages API, over the same chat translation as OpenAI's routes."""
