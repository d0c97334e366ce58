"""TRL's side of `cargo bench --bench grpo`: steps of its GRPOTrainer on the CPU, sampling with
transformers' `generate`.

Usage: grpo_trl.py PROMPTS GROUP PROMPT COMPLETION STEPS. Needs torch, transformers, datasets and
trl; downloads nothing. The last line of output has the median seconds of a step after a warm-up
step, its mean CPU seconds, and the peak memory of the process in MB.
"""

import os
import random
import resource
import statistics
import sys
import tempfile
import time

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

V = 4096


def model():
    config = Qwen2Config(
        vocab_size=V,
        hidden_size=256,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    return Qwen2ForCausalLM(config).float()


def tokenizer():
    """One word per token; the end has an id outside the model, so that nothing ends early."""
    vocabulary = {**{f"w{i}": i for i in range(V)}, "<end>": V}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, eos_token="<end>", pad_token="w0", padding_side="left"
    )


def even(completion_ids, **_):
    """The share of even ids, as on the other side."""
    return [sum(i % 2 == 0 for i in ids) / len(ids) for ids in completion_ids]


class Clock(TrainerCallback):
    def __init__(self):
        self.marks = []

    def on_step_end(self, args, state, control, **_):
        self.marks.append((time.perf_counter(), time.process_time()))


def main():
    prompts, group, prompt, completion, steps = map(int, sys.argv[1:6])
    torch.manual_seed(0)
    draw = random.Random(0)
    def text():
        return " ".join(f"w{draw.randrange(V)}" for _ in range(prompt))

    texts = [text() for _ in range(prompts * (steps + 1))]
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        settings = GRPOConfig(
            output_dir=folder,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=prompts * group,
            gradient_accumulation_steps=1,
            num_generations=group,
            max_completion_length=completion,
            max_steps=steps + 1,
            learning_rate=1e-6,
            lr_scheduler_type="constant",
            beta=0.0,
            loss_type="grpo",
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            logging_steps=1000,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        data = Dataset.from_dict({"prompt": texts})
        trainer = GRPOTrainer(
            model=model(),
            reward_funcs=even,
            args=settings,
            train_dataset=data,
            processing_class=tokenizer(),
            callbacks=[clock],
        )
        seen = []
        original = trainer._generate
        trainer._generate = lambda prompts: seen.append(original(prompts)) or seen[-1]
        trainer.train()
    for out in seen:
        lengths = {len(ids) for ids in out[0]}, {len(ids) for ids in out[1]}
        assert lengths == ({prompt}, {completion}), f"prompts and completions of {lengths} tokens"
    assert len(clock.marks) == steps + 1, f"{len(clock.marks)} steps"
    spans = [[b - a for a, b in zip(*pair)] for pair in zip(clock.marks, clock.marks[1:])]
    wall, cpu = zip(*spans)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(statistics.median(wall), statistics.mean(cpu), peak)


if __name__ == "__main__":
    main()
