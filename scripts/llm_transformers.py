"""transformers' side of `cargo bench --bench llm`: sampling with `generate`.

Usage: llm_transformers.py FOLDER f32|bf16. FOLDER has Hugging Face's layout. See llm_side.py.
"""

import sys

from llm_side import serve

import torch
import transformers
from transformers import AutoModelForCausalLM


def main():
    folder, dtype = sys.argv[1:]
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    # No end token, so that every row gets all its tokens.
    model.generation_config.eos_token_id = None
    sampling = dict(do_sample=True, temperature=1.0, top_k=0, top_p=1.0, pad_token_id=0)

    def work(prompts, new):
        ids = torch.tensor(prompts)
        mask = torch.ones_like(ids)
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=new, **sampling)
        return (out.shape[1] - ids.shape[1]) * out.shape[0]

    serve(f"transformers {transformers.__version__}", model.config.vocab_size, work)


if __name__ == "__main__":
    main()
