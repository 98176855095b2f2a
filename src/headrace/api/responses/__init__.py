"""OpenAI's Responses API, over the same chat translation. Nothing is stored between calls."""
