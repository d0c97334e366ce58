#!/usr/bin/env python3
"""Writes a tiny random model with a chat template, or loads a model that `epo` has trained.

    instruct_model.py OUT [--family qwen2|qwen3|llama]
        writes the model, its tokenizer and its chat template
    instruct_model.py --read DIR
        loads a trained model, or an adapter and its base model, and generates an answer

Needs torch and transformers, and peft for adapters (tested with torch 2.15.0, transformers 5.24.0).
"""

import argparse
import json
import re
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, Qwen2Config, Qwen3Config

FIXTURE = Path(__file__).parent.parent / "tests/fixtures/hf/chat/chatml"
FAMILIES = {"qwen2": Qwen2Config, "qwen3": Qwen3Config, "llama": LlamaConfig}
SHAPE = dict(
    hidden_size=128,
    intermediate_size=384,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
)
# The names of adapter tensors that vLLM accepts.
ADAPTER = re.compile(
    r"base_model\.model\.model\.layers\.\d+\.(self_attn|mlp)\.\w+_proj\.lora_[AB]\.weight"
)


def write(out, family):
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(FIXTURE)
    ids = -(-len(tokenizer) // 8) * 8
    config = FAMILIES[family](
        **SHAPE,
        vocab_size=ids,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        initializer_range=0.09,
        eos_token_id=tokenizer.eos_token_id,
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(out)
    tokenizer.save_pretrained(out)


def read(folder):
    adapter = folder / "adapter_config.json"
    base = folder
    if adapter.exists():
        base = Path(json.loads(adapter.read_text())["base_model_name_or_path"])
    model = AutoModelForCausalLM.from_pretrained(base)
    plain = {name: value.clone() for name, value in model.state_dict().items()}
    if adapter.exists():
        from peft import PeftModel
        from safetensors import safe_open

        with safe_open(folder / "adapter_model.safetensors", "pt") as file:
            strange = [name for name in file.keys() if not ADAPTER.fullmatch(name)]
            assert not strange, strange
            count = len(file.keys())
        model = PeftModel.from_pretrained(model, folder).merge_and_unload()
        merged = model.state_dict().items()
        changed = sum(not torch.equal(plain[name], value) for name, value in merged)
        print(f"an adapter of {count} tensors that changes {changed} weights")
        assert 2 * changed == count
    tokenizer = AutoTokenizer.from_pretrained(base)
    chat = [{"role": "user", "content": "look around"}]
    ids = tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = model.generate(**ids, max_new_tokens=24, do_sample=False, pad_token_id=0)
    count = sum(p.numel() for p in model.parameters())
    print(f"{count} parameters, {next(model.parameters()).dtype}")
    print(repr(tokenizer.decode(answer[0, ids["input_ids"].shape[1] :])))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--family", choices=FAMILIES, default="qwen2")
    parser.add_argument("--read", type=Path, metavar="DIR")
    args = parser.parse_args()
    if args.read:
        read(args.read)
    elif args.out:
        write(args.out, args.family)
    else:
        parser.error("a folder to write to, or --read DIR")


if __name__ == "__main__":
    main()
