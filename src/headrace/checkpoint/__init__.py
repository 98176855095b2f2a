"""Find, download and describe a model: hub, config.json, the GGUF container. No torch."""
