"""PyTorch's and PEFT's side of `cargo bench --bench llm`: one policy update of LoRA adapters.

Usage: llm_peft.py FOLDER f32|bf16. FOLDER has Hugging Face's layout; adapters of rank 16 are on all
linear layers of its blocks, in f32. The loss is that of model_torch.py. See llm_side.py: PROMPT is
the length of a row, and the answer counts the tokens of all rows.
"""

import sys

from llm_side import serve

import peft
import torch
from model_torch import loss
from transformers import AutoModelForCausalLM

# Rows of a micro-batch: the logits of one row of 1,024 tokens take 200 MB in f32, several times.
MICRO_BATCH = 1


def main():
    folder, dtype = sys.argv[1:]
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    lora = peft.LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0)
    policy = peft.get_peft_model(model, lora)
    policy.config.use_cache = False
    policy.train()
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.01)

    def work(rows, _):
        ids = torch.tensor(rows)
        old = torch.full((len(rows), ids.shape[1] - 1), -12.0)
        signs = torch.tensor([1.0, -1.0]).repeat(len(rows))[: len(rows), None]
        advantages = signs.expand_as(old)
        optimizer.zero_grad(set_to_none=True)
        for part in zip(*(x.split(MICRO_BATCH) for x in (ids, old, advantages))):
            share = len(part[0]) / len(rows)
            (loss(policy, *part) * share).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        return ids.numel()

    serve(f"PEFT {peft.__version__}, PyTorch {torch.__version__}", policy.config.vocab_size, work)


if __name__ == "__main__":
    main()
