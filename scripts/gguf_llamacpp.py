"""Token ids and greedy continuations of a GGUF file by llama.cpp, for comparison with this crate.

    python3 -m pip install xllamacpp==2026.10.11549
    python3 scripts/gguf_llamacpp.py MODEL.gguf <requests.json >answers.json

Requests: {"texts": [text, …], "prompts": [[id, …], …], "tokens": most new tokens per prompt}.
Answers: {"ids": ids of each text, special tokens as plain text,
          "outputs": greedy continuation of each prompt}.
Keys, values and attention are in f32, without flash attention.
"""

import json
import os
import sys
import urllib.request

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")

import xllamacpp  # noqa: E402


def serve(path):
    """Starts a server in this process; returns its address."""
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.hostnames = ["127.0.0.1"]
    params.port = int(os.environ.get("EPO_LLAMACPP_PORT", "8137"))
    params.n_ctx = 4096
    params.n_parallel = 1
    params.cache_ram_mib = 0
    params.cache_type_k = xllamacpp.ggml_type.GGML_TYPE_F32
    params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.cpuparams.n_threads = 2
    server = xllamacpp.Server(params)
    return server, server.listening_address


def post(address, route, request):
    body = json.dumps(request).encode()
    headers = {"Content-Type": "application/json"}
    call = urllib.request.Request(f"{address}{route}", body, headers)
    with urllib.request.urlopen(call, timeout=600) as answer:
        return json.load(answer)


def main():
    requests = json.load(sys.stdin)
    server, address = serve(sys.argv[1])
    ids = []
    for text in requests.get("texts", []):
        request = {"content": text, "add_special": False, "parse_special": False}
        ids.append(post(address, "/tokenize", request)["tokens"])
    outputs = []
    for prompt in requests.get("prompts", []):
        request = {
            "prompt": prompt,
            "n_predict": requests["tokens"],
            "temperature": 0.0,
            "top_k": 1,
            "return_tokens": True,
            "cache_prompt": False,
        }
        outputs.append(post(address, "/completion", request)["tokens"])
    json.dump({"ids": ids, "outputs": outputs}, sys.stdout)
    sys.stdout.flush()
    # The server's threads keep the process alive.
    os._exit(0)


if __name__ == "__main__":
    main()
