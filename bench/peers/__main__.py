"""Headrace beside other CPU engines: same models, same prompts, same machine, same run.

    python -m bench.peers --openvino PYTHON --llama LLAMA_SERVER --vllm VLLM --bf16 FOLDER \
        --json peers.json --plot peers.png

Run it from the root of the repository. Engines of a section stay loaded, all but the measured one
stopped; rounds alternate over them, so that drifts of the machine hit all alike. Printed are
medians over rounds, medians of ratios round by round, and fractions of the machine's measured
limits. An engine that does not start or gives a senseless answer is left out, with a line.

`--without-amx` runs all engines as on a processor that has none.

Each section is written to the JSON file when it is done, and skipped when it is already there, so
that a run can be interrupted; `--sections NAME,...` runs these anew.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bench.peers.report import plot, section_text, text
from bench.peers.sections import SECTIONS
from bench.peers.without_amx import refuse_amx


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sections", help=f"of {', '.join(SECTIONS)}; default: those that are missing in --json")
    add("--headrace", default="", help="further flags of headrace serve")
    add("--openvino", help="a Python with openvino_genai")
    add("--llama", help="path of llama-server")
    add("--llama-flags", default="", help="further flags of llama-server")
    add("--q4_0", type=Path, help="the embedded model as Q4_0, llama.cpp's best")
    add("--vllm", help="path of vllm")
    add("--bf16", type=Path, help="the embedded model in bfloat16, see bench/export_bf16.py")
    add("--without-amx", action="store_true", help="refuse AMX to all engines")
    add("--streams", default="1,8,32")
    add("--prompt-tokens", type=int, default=65)
    add("--new-tokens", type=int, default=128)
    add("--prefill-tokens", type=int, default=500)
    add("--rounds", type=int, default=3)
    add("--soak-seconds", type=float, default=600)
    add("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="for the 1B shape")
    add("--json", type=Path, default=Path("peers.json"))
    add("--plot", type=Path)
    return parser.parse_args()


def wanted(options: argparse.Namespace, results: dict[str, Any]) -> list[str]:
    if options.sections:
        names: list[str] = options.sections.split(",")
        return names
    return [name for name in SECTIONS if name not in results and (options.bf16 or name != "bf16")]


def main() -> None:
    options = parse()
    if options.without_amx:
        refuse_amx()
    results: dict[str, Any] = {}
    if options.json.exists():
        results = json.loads(options.json.read_text())
    for name in wanted(options, results):
        print(f"== {name}", flush=True)
        results[name] = SECTIONS[name](options)
        options.json.write_text(json.dumps(results, indent=1))
        print(section_text(name, results[name]), flush=True)
    print(f"\n{text(results)}")
    if options.plot:
        plot(results, options.plot)


if __name__ == "__main__":
    main()
