"""llama.cpp's side of `cargo bench --bench llm`: its server with continuous batching, in this
process and without HTTP, from the package `xllamacpp`.

Usage: llm_llamacpp.py FILE f32|f16|stored. FILE is a GGUF file; `f32` and `f16` convert its weights
first, with the package `gguf`, into a temporary file. See llm_side.py.
"""

import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from llm_side import serve

import os

import gguf
import numpy as np
import xllamacpp

ROWS = 16
CONTEXT = 1024


def write(source, out, dtype):
    """Writes `source` with its matrices in `dtype` and its vectors in f32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in ("general.architecture", "general.file_type"):
            kind, *rest = field.types
            writer.add_key_value(name, field.contents(), kind, rest[-1] if rest else None)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32 if dtype == np.float32 else gguf.LlamaFileType.MOSTLY_F16)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        wide = values.ndim < 2
        writer.add_tensor(tensor.name, values.astype(np.float32 if wide else dtype))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def server(path, dtype):
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = ROWS * CONTEXT
    params.n_parallel = ROWS
    params.kv_unified = False
    params.cache_ram_mib = 0
    params.verbosity = -1
    params.n_batch = ROWS * 512
    threads = len(os.sched_getaffinity(0))
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    if kv := os.environ.get("KV"):
        params.cache_type_k = params.cache_type_v = getattr(xllamacpp.ggml_type, f"GGML_TYPE_{kv}")
    if fa := os.environ.get("FA"):
        params.flash_attn_type = getattr(xllamacpp.llama_flash_attn_type, f"LLAMA_FLASH_ATTN_TYPE_{fa}")
    if ub := os.environ.get("UB"):
        params.n_ubatch = int(ub)
    return xllamacpp.Server(params)


def main():
    path, dtype = sys.argv[1:]
    reader = gguf.GGUFReader(path)
    vocabulary = len(reader.fields["tokenizer.ggml.tokens"].data)
    with tempfile.TemporaryDirectory() as folder:
        if dtype != "stored":
            source, path = path, Path(folder) / f"{dtype}.gguf"
            write(source, path, {"f32": np.float32, "f16": np.float16}[dtype])
        llama = server(path, dtype)
        pool = ThreadPoolExecutor(ROWS)
        sampling = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, ignore_eos=True)

        def one(prompt, new):
            request = dict(prompt=prompt, n_predict=new, cache_prompt=False, **sampling)
            return llama.handle_completions(request)

        def work(prompts, new):
            answers = list(pool.map(lambda prompt: one(prompt, new), prompts))
            print(str(answers[0])[:600], file=sys.stderr)
            return sum(answer["usage"]["completion_tokens"] for answer in answers)

        serve(f"llama.cpp (xllamacpp {version('xllamacpp')})", vocabulary, work)


if __name__ == "__main__":
    main()
