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
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    yield "plain", byte, {**common, **named}, {}
    yield "missing", missing, {**common, **named, "added_tokens_decoder": {**chat, **think}}, {}
    flag = flagged(byte, False, "<|im_start|>", "<|im_end|>")
    yield "flag", flag, {**common, **named}, {}
    decoder = {**chat, str(ids["<|im_start|>"]): token("<|im_start|>", False)}
    yield "override", byte, {**common, **named, "added_tokens_decoder": decoder}, {}
    strips = {**chat, str(end): token("<tool>", lstrip=True), str(end + 1): token("<img>", rstrip=True),
              str(end + 2): token("<think>", False, normalized=True, single_word=True)}
    yield "strips", missing, {**common, **named, "added_tokens_decoder": strips}, {}
    yield "extra_list", byte, {**common, **named, "extra_special_tokens": ["<tool>", "<img>"]}, {}
    yield "extra_dict", byte, {**common, **named, "extra_special_tokens": {"image_token": "<img>"}}, {}
    yield "additional", byte, {**common, **named, "additional_special_tokens": ["<tool>", "<img>"]}, {}
    both = {"additional_special_tokens": ["<tool>"], "extra_special_tokens": ["<img>"]}
    yield "both", byte, {**common, **named, **both}, {}
    yield "model_specific", byte, {**common, **named, "image_token": "<img>"}, {}
    objects = {"eos_token": {"__type": "AddedToken", **token("</s>", normalized=True)},
               "pad_token": {"__type": "AddedToken", **token("[PAD]", lstrip=True)}}
    yield "objects", byte, {**common, **objects}, {}
    yield "new_named", byte, {**common, "eos_token": "</s>", "bos_token": "<s>", "pad_token": "[PAD]",
                             "unk_token": "<unk>"}, {}
    yield "word", byte, {**common, "eos_token": "<|im_end|>", "pad_token": "!"}, {}
    smap = {"eos_token": {"content": "</s>", "lstrip": False, "rstrip": False, "normalized": False,
                          "single_word": False}, "pad_token": "[PAD]",
            "additional_special_tokens": ["<tool>"]}
    yield "special_map", byte, {**common}, {"special_tokens_map.json": smap}
    smap2 = {"extra_special_tokens": ["<tool>", {"content": "<img>", "lstrip": True, "rstrip": False,
             "normalized": False, "single_word": False}]}
    yield "special_map_extra", byte, {**common, **named}, {"special_tokens_map.json": smap2}
    yield "special_map_unread", byte, {**common, "added_tokens_decoder": chat}, {"special_tokens_map.json": smap}
    added = {"<think>": end, "</think>": end + 1, "</s>": end + 2}
    yield "added_json", byte, {**common, "eos_token": "</s>"}, {"added_tokens.json": added}
    yield "added_json_unread", byte, {**common, **named, "added_tokens_decoder": {**chat, str(end): token("<tool>")}}, {"added_tokens.json": {"<img>": end}}
    trunc = {"direction": "Right", "max_length": 6, "strategy": "LongestFirst", "stride": 0}
    pad = {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0,
           "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    yield "truncated", {**byte, "truncation": trunc}, {**common, **named}, {}
    yield "padded", {**byte, "padding": pad}, {**common, **named}, {}
    yield "both_cut", {**byte, "truncation": trunc, "padding": pad}, {**common, **named}, {}
    switches = {"add_bos_token": True, "add_eos_token": True, "add_prefix_space": True, "legacy": False,
                "clean_up_tokenization_spaces": True, "model_max_length": 5}
    yield "switches", byte, {**common, **named, **switches, "bos_token": "<|im_start|>"}, {}
    template = {"type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [ids["<|im_start|>"]], "tokens": ["<|im_start|>"]}}}
    yield "post_processor", {**byte, "post_processor": template}, {**common, **named}, {}
    yield "prefix_space", bytelevel(True), {**common, **named}, {}
    sp = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    for name, base in [("bpe_always", sentencepiece()), ("bpe_first", sentencepiece(legacy=False)),
                       ("unigram", sentencepiece(unigram=True))]:
        vocab = base["model"]["vocab"]
        size = len(vocab)
        decoder = {str(size): token("<|im_end|>"), str(size + 1): token("[PAD]", True)}
        extra = {"legacy": False, "add_bos_token": True, "add_prefix_space": None}
        decoders_ = {**{str(i): token(t) for i, t in enumerate(["<unk>", "<s>", "</s>"])}, **decoder}
        yield name, base, {**common, **sp, **extra, "added_tokens_decoder": decoders_}, {}


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
        files = {"tokenizer.json": base, "tokenizer_config.json": config, "config.json": {"model_type": "llama"}, **others}
        for file, content in files.items():
            (folder / file).write_text(json.dumps(content, ensure_ascii=False))
        auto = AutoTokenizer.from_pretrained(folder)
        (folder / "config.json").unlink()
        auto.backend_tokenizer.no_truncation()
        auto.backend_tokenizer.no_padding()
        rng = random.Random(name)
        texts = []
        for _ in range(options.texts):
            words = text(rng)
            kinds = [auto(words, add_special_tokens=False, split_special_tokens=split).input_ids for split in (False, True)]
            if name == "unigram":
                kinds[1] = None  # its model finds special tokens in any text
            texts.append({"text": words, "ids": kinds[0], "plain_ids": kinds[1]})
        auto.split_special_tokens = False
        expected = {"class": type(auto).__name__, "eos_id": auto.eos_token_id, "size": len(auto), "texts": texts}
        (folder / "expected.json").write_text(json.dumps(expected, ensure_ascii=False))
        print(name, expected["class"], auto.eos_token_id, len(auto), {t: i for t, i in auto.get_added_vocab().items()})


main()
