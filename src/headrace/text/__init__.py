"""From text to token ids and back: tokenizer, templates, stop strings, the front end."""
