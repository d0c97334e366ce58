"""PyTorch's side of `cargo bench --bench model`: one policy update with transformers and PEFT.

The model has the shape of Qwen2.5-0.5B. Usage: model_torch.py CASE ROWS LENGTH LAYERS, with CASE
full, bf16 (all weights, stored in bf16) or lora. The last line of output has three numbers: wall
seconds and CPU seconds of one update after a warm-up, and the peak memory of the process in MB.
"""

import resource
import sys
import time

import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

V = 151936


def model(case, layers):
    config = Qwen2Config(
        vocab_size=V,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=layers,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        rope_theta=1e6,
        tie_word_embeddings=True,
    )
    policy = Qwen2ForCausalLM(config).to(torch.bfloat16 if case == "bf16" else torch.float32)
    if case == "lora":
        from peft import LoraConfig, get_peft_model

        policy.enable_input_require_grads()
        lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", lora_dropout=0.0)
        policy = get_peft_model(policy, lora)
    policy.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    policy.config.use_cache = False
    policy.train()
    return policy


def loss(policy, ids, old, advantages):
    """Clipped policy loss with EPO's hinge on the mean entropy."""
    logits = policy(input_ids=ids, use_cache=False).logits[:, :-1].float()
    log_probs = torch.log_softmax(logits, dim=-1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    taken = log_probs.gather(-1, ids[:, 1:, None]).squeeze(-1)
    ratio = (taken - old).exp()
    policy_loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
    mean = entropy.mean()
    smooth = torch.relu(0.9 * 12.0 - mean) + torch.relu(mean - 1.1 * 12.0)
    return policy_loss - 0.001 * (mean - smooth)


def main():
    case, rows, length, layers = sys.argv[1], *map(int, sys.argv[2:5])
    torch.manual_seed(0)
    policy = model(case, layers)
    ids = torch.randint(0, V, (rows, length))
    old = torch.full((rows, length - 1), -12.0)
    signs = torch.tensor([1.0, -1.0]).repeat((rows + 1) // 2)[:rows, None]
    advantages = signs.expand(-1, length - 1)
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-6, weight_decay=0.01)
    for _ in range(2):
        wall = time.perf_counter()
        cpu = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss(policy, ids, old, advantages).backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        wall = time.perf_counter() - wall
        cpu = time.process_time() - cpu
    print(wall, cpu, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


if __name__ == "__main__":
    main()
