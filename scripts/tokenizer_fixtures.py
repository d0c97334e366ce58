"""Writes tokenizers whose files disagree with each other, and the ids that AutoTokenizer gives.

    python3 scripts/tokenizer_fixtures.py FOLDER [--texts N] [--only NAME ...]

Each folder under FOLDER holds the tokenizer files of a checkpoint and `expected.json`: texts with
their ids, with special tokens recognised (`ids`) and split (`plain_ids`), and the id of eos_token.
`EPO_TOKENIZER_FIXTURES=FOLDER cargo test --test hf_fixtures tokenizers` compares. The set in
tests/fixtures/hf/tokenizers was written with `--texts 12 --only missing flag strips special_map
added_json both_cut bpe_always bpe_first` (transformers 5.24.0).
"""

import argparse
import copy
import json
import pathlib
import random

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

CORPUS = [
    "You are in a kitchen. You see a stove, a drawer and a cup on the counter!",
    "go to the drawer 1, take the mug from the counter and open the fridge",
    "<think>\nI should look around first.\n</think><action>look around</action>",
    "Les élèves naïfs ont mangé à Paris; 漢字 and русский text; 🦀 crabs",
]
PIECES = [
    "<s>", "</s>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>",
    "<tool>", "<img>", "[PAD]", "<extra>", "!", "!!", " ", "  ", "\n", "\n\n", "\t", "drawer",
    "the", " go", "to the", "kitchen", "é", "漢", "🦀", "A", "z", "0", "12", ".", ",", "'s",
    "\u00a0", "e\u0301", "<", ">", "|", "im_end", "</", "think",
]


def text(rng):
    parts = [rng.choice(PIECES + [rng.choice(CORPUS)[: rng.randint(1, 40)]])]
    for _ in range(rng.randint(0, 12)):
        parts.append(rng.choice(PIECES))
    return "".join(parts)


def bytelevel(prefix_space=False):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return json.loads(tokenizer.to_str())


def sentencepiece(unigram=False, legacy=True):
    if unigram:
        tokenizer = tokenizers.Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(
            vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>",
            show_progress=False,
        )
    else:
        tokenizer = tokenizers.Tokenizer(
            models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
        )
        hexes = [f"<0x{i:02X}>" for i in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=480, special_tokens=["<unk>", "<s>", "</s>", *hexes], show_progress=False
        )
    if legacy and not unigram:
        tokenizer.normalizer = normalizers.Sequence(
            [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
        )
        tokenizer.decoder = decoders.Sequence([
            decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ])
        tokenizer.train_from_iterator(CORPUS, trainer)
    else:
        scheme = "always" if unigram else "first"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
        tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
        tokenizer.train_from_iterator(CORPUS, trainer)
    out = json.loads(tokenizer.to_str())
    out["added_tokens"] = [t for t in out["added_tokens"] if not t["content"].startswith("<0x")]
    return out


def token(content, special=True, **flags):
    return {"content": content, "lstrip": False, "rstrip": False, "normalized": False,
            "single_word": False, "special": special, **flags}


def without(base, *names):
    out = copy.deepcopy(base)
    out["added_tokens"] = [t for t in out["added_tokens"] if t["content"] not in names]
    return out


def flagged(base, special, *names):
    out = copy.deepcopy(base)
    for t in out["added_tokens"]:
        if t["content"] in names:
            t["special"] = special
    return out


def cases():
    """(name, tokenizer.json, tokenizer_config.json, other files)"""
    byte = bytelevel()
    end = max(byte["model"]["vocab"].values()) + 1
    ids = byte["model"]["vocab"]
    common = {"tokenizer_class": "PreTrainedTokenizerFast"}
    chat = {str(ids[t]): token(t) for t in ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]}
    think = {str(end): token("<think>", False), str(end + 1): token("</think>", False)}
    missing = without(byte, "<|im_start|>", "<|im_end|>")
    named = {**common, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    yield "plain", byte, named, {}
    yield "missing", missing, {**named, "added_tokens_decoder": {**chat, **think}}, {}
    yield "flag", flagged(byte, False, "<|im_start|>", "<|im_end|>"), named, {}
    decoder = {**chat, str(ids["<|im_start|>"]): token("<|im_start|>", False)}
    yield "override", byte, {**named, "added_tokens_decoder": decoder}, {}
    strips = {
        **chat,
        str(end): token("<tool>", lstrip=True),
        str(end + 1): token("<img>", rstrip=True),
        str(end + 2): token("<think>", False, normalized=True, single_word=True),
    }
    yield "strips", missing, {**named, "added_tokens_decoder": strips}, {}
    tokens = ["<tool>", "<img>"]
    yield "extra_list", byte, {**named, "extra_special_tokens": tokens}, {}
    extra = {"b_token": "<img>", "a_token": "<tool>"}
    yield "extra_dict", byte, {**named, "extra_special_tokens": extra}, {}
    yield "additional", byte, {**named, "additional_special_tokens": tokens}, {}
    both = {"additional_special_tokens": ["<tool>"], "extra_special_tokens": ["<img>"]}
    yield "both", byte, {**named, **both}, {}
    yield "model_specific", byte, {**named, "image_token": "<img>", "audio_token": "<tool>"}, {}
    objects = {
        "eos_token": {"__type": "AddedToken", **token("</s>", normalized=True)},
        "pad_token": {"__type": "AddedToken", **token("[PAD]", lstrip=True)},
    }
    yield "objects", byte, {**common, **objects}, {}
    new = {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "[PAD]", "unk_token": "<unk>"}
    yield "new_named", byte, {**common, **new}, {}
    yield "word", byte, {**common, "eos_token": "<|im_end|>", "pad_token": "!"}, {}
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
    token_map = {
        "eos_token": {"content": "</s>", **flags},
        "pad_token": "[PAD]",
        "additional_special_tokens": ["<tool>"],
    }
    yield "special_map", byte, common, {"special_tokens_map.json": token_map}
    unread = {**common, "added_tokens_decoder": chat}
    yield "special_map_unread", byte, unread, {"special_tokens_map.json": token_map}
    extra = {"extra_special_tokens": ["<tool>", {"content": "<img>", **flags, "lstrip": True}]}
    yield "special_map_extra", byte, named, {"special_tokens_map.json": extra}
    added = {"<think>": end, "</think>": end + 1, "</s>": end + 2}
    yield "added_json", byte, {**common, "eos_token": "</s>"}, {"added_tokens.json": added}
    unread = {**named, "added_tokens_decoder": {**chat, str(end): token("<tool>")}}
    yield "added_json_unread", byte, unread, {"added_tokens.json": {"<img>": end}}
    yield from switches(byte, named)
    yield from sentencepieces(common)


def switches(byte, named):
    """Settings that change no id, or must not."""
    cut = {"direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0}
    pad = {
        "strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
        "pad_type_id": 0, "pad_token": "<|endoftext|>",
    }
    yield "truncated", {**byte, "truncation": cut}, named, {}
    yield "padded", {**byte, "padding": pad}, named, {}
    yield "both_cut", {**byte, "truncation": cut, "padding": pad}, named, {}
    config = {
        "add_bos_token": True, "add_eos_token": True, "add_prefix_space": True, "legacy": False,
        "clean_up_tokenization_spaces": True, "model_max_length": 5, "bos_token": "<|im_start|>",
    }
    yield "switches", byte, {**named, **config}, {}
    start = {"id": "<|im_start|>", "ids": [byte["model"]["vocab"]["<|im_start|>"]]}
    first = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    a, b = ({"Sequence": {"id": name, "type_id": i}} for i, name in enumerate("AB"))
    template = {
        "type": "TemplateProcessing", "single": [first, a], "pair": [a, b],
        "special_tokens": {"<|im_start|>": {**start, "tokens": ["<|im_start|>"]}},
    }
    yield "post_processor", {**byte, "post_processor": template}, named, {}
    yield "prefix_space", bytelevel(True), named, {}


def sentencepieces(common):
    """Tokenizers that write a space in front of a text."""
    for name, base in [
        ("bpe_always", sentencepiece()),
        ("bpe_first", sentencepiece(legacy=False)),
        ("unigram", sentencepiece(unigram=True)),
    ]:
        size = len(base["model"]["vocab"])
        decoder = {str(i): token(t) for i, t in enumerate(["<unk>", "<s>", "</s>"])}
        decoder |= {str(size): token("<|im_end|>"), str(size + 1): token("[PAD]", True)}
        config = {
            **common, "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>",
            "legacy": False, "add_bos_token": True, "add_prefix_space": None,
            "added_tokens_decoder": decoder,
        }
        yield name, base, config, {}


def ids_of(auto, text, split):
    return auto(text, add_special_tokens=False, split_special_tokens=split).input_ids


def expected(auto, name, count):
    """What `auto` makes of random texts."""
    auto.backend_tokenizer.no_truncation()
    auto.backend_tokenizer.no_padding()
    rng = random.Random(name)
    texts = []
    for _ in range(count):
        words = text(rng)
        ids = ids_of(auto, words, False)
        # The model of "unigram" finds special tokens in any text.
        plain_ids = None if name == "unigram" else ids_of(auto, words, True)
        texts.append({"text": words, "ids": ids, "plain_ids": plain_ids})
    return {"eos_id": auto.eos_token_id, "size": len(auto), "texts": texts}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--only", nargs="*")
    options = parser.parse_args()
    for name, base, config, others in cases():
        if options.only and name not in options.only:
            continue
        folder = options.folder / name
        folder.mkdir(parents=True, exist_ok=True)
        model = {"config.json": {"model_type": "llama"}}
        files = {"tokenizer.json": base, "tokenizer_config.json": config, **others}
        for file, content in {**files, **model}.items():
            (folder / file).write_text(json.dumps(content, ensure_ascii=False))
        auto = AutoTokenizer.from_pretrained(folder)
        (folder / "config.json").unlink()
        values = expected(auto, name, options.texts)
        (folder / "expected.json").write_text(json.dumps(values, ensure_ascii=False))
        print(name, type(auto).__name__, values["eos_id"], auto.get_added_vocab())


main()
