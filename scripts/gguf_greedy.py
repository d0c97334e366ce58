"""Compares greedy continuations of a GGUF file by this crate and by llama.cpp.

    python3 -m pip install xllamacpp==2026.10.11549
    python3 scripts/gguf_greedy.py MODEL.gguf [most new tokens]

Both start from the same token ids. Files in F32 and F16 have to agree; llama.cpp rounds the
activations of quantised files to 8 bits, this crate does not, so those may differ at close calls.
Builds the example `generate` in release mode. Exits with 1 if an answer differs.
"""

import json
import subprocess
import sys
from pathlib import Path

PROMPTS = [
    "What is the capital of France?",
    "Count from 1 to 12.",
    "Write a haiku about rivers.",
    "Write a Python function that adds two numbers.",
    "Name three kitchen appliances.",
    "Translate 'good morning' into German.",
    "You are in a kitchen. You see a mug on the countertop. What do you do next?",
    "2 + 2 =",
]


def main():
    model, tokens = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else "64"
    root = Path(__file__).parent.parent
    command = ["cargo", "run", "--locked", "--release", "--quiet", "--example", "generate", "--"]
    command += ["--model", str(Path(model).resolve()), "--temperature", "0"]
    command += ["--max-tokens", tokens, "--json", *PROMPTS]
    lines = subprocess.run(command, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    ours = [json.loads(line) for line in lines.stdout.splitlines()]
    request = {"prompts": [answer["prompt_ids"] for answer in ours], "tokens": int(tokens)}
    script = Path(__file__).with_name("gguf_llamacpp.py")
    done = subprocess.run(
        [sys.executable, script, model],
        input=json.dumps(request),
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    theirs = json.loads(done.stdout)["outputs"]
    different = 0
    for prompt, a, b in zip(PROMPTS, ours, theirs):
        if a["ids"] == b:
            print(f"same {len(b)} tokens: {prompt}")
            continue
        different += 1
        at = next((i for i, (x, y) in enumerate(zip(a["ids"], b)) if x != y), None)
        print(f"differ at token {at}: {prompt}\n  here      {a['ids']}\n  llama.cpp {b}")
    print(f"{len(PROMPTS) - different} of {len(PROMPTS)} answers are the same")
    sys.exit(different > 0)


if __name__ == "__main__":
    main()
