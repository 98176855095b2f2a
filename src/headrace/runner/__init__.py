"""The device side of a step: batch buffers, the model's forward pass, sampling, memory."""
