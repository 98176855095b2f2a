"""Names of linear layers in the checkpoint, where quantized tensors shall stand in their place."""

from headrace.checkpoint.checkpoint import Checkpoint
from headrace.errors import StartupError
from headrace.models import spec_of
from headrace.weights import open_weights


class StoredNames:
    """From our names to those of one checkpoint."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Raises StartupError for a model that is not native."""
        self._naming = spec_of(checkpoint.config).naming.within(checkpoint.text_part)
        self._weights = open_weights(checkpoint)

    def of(self, name: str) -> str:
        """Raises StartupError for a layer that the checkpoint has in another form than a matrix of
        its own, and which the writer would have to put together again from our parts."""
        source = self._naming.source(name)
        if source.rows is not None or source.is_transposed or source.num_parts is not None:
            raise StartupError(
                f"{name} is kept in the checkpoint's {source.name}, fused, reordered or "
                "transposed: such a model can only be quantized while loading (--quantize)"
            )
        if self._weights.has(f"{source.name}.weight"):
            return source.name
        return source.name.removeprefix(self._naming.base)
