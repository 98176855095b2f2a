"""Bodies of TGI's own routes."""

from headrace.api.parameters import GenerateParameters
from headrace.api.schema import Body

# Without `parameters` TGI samples; with an empty `parameters` it is greedy.
ABSENT_PARAMETERS = GenerateParameters(do_sample=True)


class GenerateRequest(Body):
    """POST /generate, /generate_stream, /tokenize."""

    inputs: str
    add_special_tokens: bool = True
    parameters: GenerateParameters = ABSENT_PARAMETERS


class CompatGenerateRequest(GenerateRequest):
    """POST /."""

    stream: bool = False
