"""Run in an environment of its own: TGI's first client against the server at argv[1].

Prints one JSON object with what each call brought.
"""

import json
import sys

from text_generation import Client

PROMPT = "The capital of France is"
MESSAGES = [{"role": "user", "content": "Where is the Eiffel Tower?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def main(url: str) -> None:
    client = Client(url, timeout=60)
    whole = client.generate(PROMPT, max_new_tokens=8, decoder_input_details=True, top_n_tokens=2)
    best = client.generate(PROMPT, max_new_tokens=4, best_of=2, do_sample=True)
    watermarked = client.generate(PROMPT, max_new_tokens=4, watermark=True, seed=1)
    events = list(client.generate_stream(PROMPT, max_new_tokens=8))
    grammar = {"type": "regex", "value": "[0-9]{3}"}
    chat = client.chat(MESSAGES, max_tokens=24, temperature=0.01, seed=1)
    called = client.chat(MESSAGES, tools=[TOOL], tool_choice="get_weather", max_tokens=64, seed=1)
    number = client.generate(PROMPT, max_new_tokens=8, grammar=grammar)
    try:
        client.generate(PROMPT, max_new_tokens=4, stop_sequences=list("abcdefgh"))
        refusal = ""
    except Exception as error:
        refusal = f"{type(error).__name__}: {error}"
    answers = {
        "whole": whole.model_dump(mode="json"),
        "best": best.model_dump(mode="json"),
        "watermarked": watermarked.generated_text,
        "stream": [event.model_dump(mode="json") for event in events],
        "number": number.generated_text,
        "chat": chat.model_dump(mode="json"),
        "called": called.model_dump(mode="json"),
        "refusal": refusal,
    }
    print(json.dumps(answers))


if __name__ == "__main__":
    main(sys.argv[1])
