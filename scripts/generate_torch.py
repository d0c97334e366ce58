"""PyTorch's side of `cargo bench --bench generate`: sampling with transformers' `generate`.

Usage: generate_torch.py SHAPE TYPE ROWS PROMPT NEW, with SHAPE small or 0.5b and TYPE f32 or bf16.
The last line of output has three numbers: wall seconds and CPU seconds of one call after a warm-up,
and the peak memory of the process in MB.
"""

import resource
import sys
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

SHAPES = {
    "small": dict(
        vocab_size=4096,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
    ),
    "0.5b": dict(
        vocab_size=151936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
    ),
}


def main():
    shape = sys.argv[1]
    dtype = torch.bfloat16 if sys.argv[2] == "bf16" else torch.float32
    rows, prompt, new = map(int, sys.argv[3:6])
    torch.manual_seed(0)
    config = Qwen2Config(
        **SHAPES[shape],
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
    )
    model = Qwen2ForCausalLM(config).to(dtype).eval()
    ids = torch.randint(0, config.vocab_size, (rows, prompt))
    sampling = dict(
        do_sample=True, temperature=1.0, top_k=0, top_p=1.0, eos_token_id=None, pad_token_id=0
    )
    for count in (2, new):
        wall = time.perf_counter()
        cpu = time.process_time()
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            model.generate(ids, attention_mask=mask, max_new_tokens=count, **sampling)
        wall = time.perf_counter() - wall
        cpu = time.process_time() - cpu
    print(wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
