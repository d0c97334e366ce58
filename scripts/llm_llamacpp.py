"""llama.cpp's side of `cargo bench --bench llm`: its server with continuous batching, in this
process and without HTTP, from the package `xllamacpp`.

Usage: llm_llamacpp.py FILE f32|f16|q8_0|q4_1. FILE is a GGUF file of a Llama. Its matrices are
converted first, with the package `gguf`, into a temporary file; `q4_1` has the embedding in Q8_0.
See llm_side.py.
"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

from llm_side import serve

import gguf
import xllamacpp

ROWS = 16
CONTEXT = 1024
TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_1": gguf.GGMLQuantizationType.Q4_1,
}
FILE_TYPES = {
    "f32": gguf.LlamaFileType.ALL_F32,
    "f16": gguf.LlamaFileType.MOSTLY_F16,
    "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0,
    "q4_1": gguf.LlamaFileType.MOSTLY_Q4_1,
}
OWN_FIELDS = ("general.architecture", "general.file_type", "general.quantization_version")


def write(source, out, kind):
    """Writes `source` with its matrices in another type and its vectors in f32."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(out, "llama")
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in OWN_FIELDS:
            value, *items = field.types
            writer.add_key_value(name, field.contents(), value, items[-1] if items else None)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for tensor in reader.tensors:
        values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        if values.ndim == 1:
            to = TYPES["f32"]
        elif kind == "q4_1" and tensor.name == "token_embd.weight":
            to = TYPES["q8_0"]
        else:
            to = TYPES[kind]
        writer.add_tensor(tensor.name, gguf.quants.quantize(values, to), raw_dtype=to)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def server(path):
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = ROWS * CONTEXT
    params.n_batch = ROWS * CONTEXT
    params.n_parallel = ROWS
    params.kv_unified = False
    params.cache_ram_mib = 0
    params.verbosity = -1
    threads = len(os.sched_getaffinity(0))
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    return xllamacpp.Server(params)


def main():
    path, kind = sys.argv[1:]
    vocabulary = len(gguf.GGUFReader(path).fields["tokenizer.ggml.tokens"].data)
    with tempfile.TemporaryDirectory() as folder:
        converted = Path(folder) / "model.gguf"
        write(path, converted, kind)
        llama = server(converted)
    sampling = dict(temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, ignore_eos=True)
    pool = ThreadPoolExecutor(ROWS)

    def work(prompts, new):
        def one(prompt):
            request = dict(prompt=prompt, n_predict=new, cache_prompt=False, **sampling)
            return llama.handle_completions(request)["usage"]["completion_tokens"]

        return sum(pool.map(one, prompts))

    serve(f"llama.cpp (xllamacpp {version('xllamacpp')})", vocabulary, work)


if __name__ == "__main__":
    main()
