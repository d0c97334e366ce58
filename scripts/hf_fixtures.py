#!/usr/bin/env python3
"""Tiny random checkpoints of every supported family, with the results of Hugging Face transformers.

    hf_fixtures.py OUT
        writes checkpoints and expected values for tests/hf_fixtures.rs (EPO_HF_FIXTURES=OUT)
    hf_fixtures.py OUT --size committed
        writes the smaller set under tests/fixtures/hf
    hf_fixtures.py --check OUT
        compares OUT/<case> bit for bit with OUT/reloaded/<case>, which the test wrote

Needs torch, transformers >= 5 and peft (the committed set is from torch 2.15.0, transformers
5.24.0, peft 0.21.2).
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

SIZES = {
    "committed": dict(
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=48,
    ),
    "full": dict(
        hidden_size=64,
        intermediate_size=160,
        num_attention_heads=8,
        num_key_value_heads=2,
        vocab_size=512,
    ),
}
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=500000.0,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=16,
)
TEXTS = [
    "You are a careful robot in a small kitchen. Answer with one action.",
    "Where is the red mug? It is on the shelf next to the window.",
    "open the drawer, take the key, unlock the door and go to the garden",
    "The temperature of the water is 21 degrees; heat it until it boils.",
    "look around; inventory; wait; focus on the thermometer; pour the soup",
    "user assistant system tool message role content name arguments parameters",
    '{"name": "move", "description": "Go somewhere", "parameters": {"type": "object"}}',
] * 4


def cases(size):
    """name -> (config, stored dtype, shard limit)"""
    common = dict(
        SIZES[size],
        num_hidden_layers=2,
        max_position_embeddings=64,
        initializer_range=1.2 / SIZES[size]["hidden_size"] ** 0.5,
        rms_norm_eps=1e-5,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    )
    plain = dict(common, rope_parameters=dict(rope_type="default", rope_theta=10000.0))
    tied = dict(plain, tie_word_embeddings=True)
    untied = dict(plain, tie_word_embeddings=False)
    llama3 = dict(common, rope_parameters=LLAMA3)
    linear = dict(common, rope_parameters=dict(rope_type="linear", rope_theta=10000.0, factor=2.0))
    shard = "12KB" if size == "committed" else "200KB"
    f32 = torch.float32
    return {
        "qwen2_tied": (Qwen2Config(**tied), f32, None),
        "qwen2_untied": (Qwen2Config(**untied), f32, None),
        "qwen3": (Qwen3Config(**tied, head_dim=12), f32, None),
        "qwen3_sharded": (Qwen3Config(**untied, head_dim=8), f32, shard),
        "llama_llama3": (LlamaConfig(**llama3), f32, None),
        "llama_tied": (LlamaConfig(**tied), f32, None),
        "llama_biased": (LlamaConfig(**linear, attention_bias=True), f32, None),
        "mistral": (MistralConfig(**plain, head_dim=8, sliding_window=None), torch.float16, None),
        "qwen2_bf16": (Qwen2Config(**tied), torch.bfloat16, None),
    }


def token_rows(vocab, generator):
    return [torch.randint(3, vocab, (n,), generator=generator).tolist() for n in (17, 5, 2)]


def scores(model, rows, temperature):
    """Packed hidden states and logits of all positions, log p and entropy of every next token."""
    hidden, logits, log_probs, entropies = [], [], [], []
    for row in rows:
        ids = torch.tensor([row])
        states = model.model(input_ids=ids).last_hidden_state[0]
        z = model.lm_head(states)
        logp = torch.log_softmax(z[:-1].float() / temperature, dim=-1)
        log_probs.append(logp.gather(1, ids[0, 1:, None])[:, 0])
        entropies.append(-(logp.exp() * logp).sum(-1))
        hidden.append(states)
        logits.append(z)
    return [torch.cat(x) for x in (hidden, logits, log_probs, entropies)]


def loss_of(log_probs, entropies, setting):
    """mean(-A log p) - lambda [mean(H) - beta alpha mean([kl Hbar - H]+ + [H - kr Hbar]+)]"""
    advantages = torch.tensor(setting["advantages"])
    low = setting["kappa_low"] * setting["reference"]
    high = setting["kappa_high"] * setting["reference"]
    hinge = torch.relu(low - entropies) + torch.relu(entropies - high)
    smooth = setting["alpha"] * hinge.mean()
    entropy = entropies.mean() - setting["beta"] * smooth
    return (-advantages * log_probs).mean() - setting["lambda"] * entropy


def greedy(model, prompt, count):
    """The tokens of generate(), up to the first near tie of two tokens."""
    settings = GenerationConfig(do_sample=False, max_new_tokens=count, pad_token_id=0)
    ids = model.generate(torch.tensor([prompt]), generation_config=settings)[0]
    top = model(input_ids=ids[None]).logits[0, len(prompt) - 1 : -1].topk(2).values
    clear = (top[:, 0] - top[:, 1] > 1e-3).long().cumprod(0).sum().item()
    assert clear >= 4, "a near tie within four tokens: use another seed"
    return ids[len(prompt) : len(prompt) + clear].tolist()


def roughen(model, generator):
    """Changes biases and norms so that a missing or misplaced one is noticed."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("norm.weight"):
                p.add_(torch.randn(p.shape, generator=generator) * 0.2)
            elif name.endswith("bias"):
                p.copy_(torch.randn(p.shape, generator=generator) * 0.3)


def write_case(out, index, name, config, dtype, shard):
    torch.manual_seed(100 + index)
    generator = torch.Generator().manual_seed(200 + index)
    folder = out / name
    eager = dict(attn_implementation="eager", dtype=torch.float32)
    model = AutoModelForCausalLM.from_config(config, **eager)
    roughen(model, generator)
    model.generation_config = GenerationConfig(
        eos_token_id=[2, 5] if index % 2 else 2,
        bos_token_id=1,
        pad_token_id=0,
        do_sample=True,
        temperature=0.7,
        top_k=20,
        top_p=0.8,
    )
    model.to(dtype).save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))
    model = AutoModelForCausalLM.from_pretrained(folder, **eager).eval()

    rows = token_rows(config.vocab_size, generator)
    count = sum(len(row) - 1 for row in rows)
    temperature = 0.8
    hidden, logits, log_probs, entropies = scores(model, rows, temperature)
    setting = {
        "advantages": [round(float(a), 3) for a in torch.randn(count, generator=generator)],
        "lambda": 0.1,
        "alpha": 0.7,
        "beta": 1.3,
        "kappa_low": 0.9,
        "kappa_high": 1.1,
        "reference": round(float(entropies.detach().mean()), 4),
    }
    loss = loss_of(log_probs, entropies, setting)
    loss.backward()
    tensors = {"hidden": hidden, "logits": logits, "log_probs": log_probs, "entropies": entropies}
    tensors |= {f"grad.{key}": p.grad for key, p in model.named_parameters()}
    tensors = {key: value.detach().float().contiguous().clone() for key, value in tensors.items()}
    save_file(tensors, folder / "expected.safetensors")
    expected = {
        "rows": rows,
        "temperature": temperature,
        "loss": loss.item(),
        **setting,
        "dtype": str(dtype).removeprefix("torch."),
        "prompt": rows[0][:6],
        "greedy": greedy(model, rows[0][:6], 10),
        "eos": model.generation_config.eos_token_id,
    }
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")


# name -> settings of PEFT's LoraConfig; every projection has the same rank in all layers.
ADAPTERS = {
    "plain": dict(r=2, target_modules=["q_proj", "down_proj"]),
    "rslora": dict(r=4, lora_alpha=2, use_rslora=True, target_modules=["v_proj", "o_proj"]),
    "suffixes": dict(r=2, target_modules=["self_attn.k_proj", "mlp.up_proj", "absent"]),
    "pattern": dict(r=2, target_modules=r".*layers\.\d+\.(self_attn\.[qv]|mlp\.(?!up)\w+)_proj"),
    "all_linear": dict(r=1, target_modules="all-linear"),
    "excluded": dict(r=1, target_modules="all-linear", exclude_modules=r".*\.mlp\..*"),
    "layers": dict(r=2, target_modules=["q_proj"], layers_to_transform=[1, 0]),
    "unstated": dict(r=2, fan_in_fan_out=True, init_lora_weights="gaussian"),
    "patterns": dict(
        r=8,
        target_modules=["q_proj", "v_proj"],
        use_rslora=True,
        rank_pattern={r"[qv]_proj": 3},
        alpha_pattern={"q_proj": 5, r"^model\.layers\.\d\.self_attn\.v_proj": 5},
    ),
}


def write_adapter(out, index, name, settings):
    """An adapter of out/qwen2_tied as PEFT writes it, with the logits that PEFT computes."""
    generator = torch.Generator().manual_seed(300 + index)
    eager = dict(attn_implementation="eager", dtype=torch.float32)
    base = lambda: AutoModelForCausalLM.from_pretrained(out / "qwen2_tied", **eager)
    model = get_peft_model(base(), LoraConfig(task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for key, p in model.named_parameters():
            if "lora_" in key:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.4)
    folder = out / "adapters" / name
    model.peft_config["default"].base_model_name_or_path = "qwen2_tied"
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    model = PeftModel.from_pretrained(base(), folder).eval()
    ids = torch.tensor([[3, 9, 4, 1, 7, 22]])
    logits = model(input_ids=ids).logits[0].detach().contiguous()
    save_file({"ids": ids[0], "logits": logits}, folder / "expected.safetensors")


def write_adapters(out):
    if (out / "adapters").exists():
        shutil.rmtree(out / "adapters")
    for index, (name, settings) in enumerate(ADAPTERS.items()):
        write_adapter(out, index, name, settings)


CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- 'You may call these functions:\\n<tools>' }}
    {%- for tool in tools %}
        {{- '\\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=0, open=true) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages | length - 1) - loop.index0 %}
    {%- if ns.open and message.role == 'user' and not (message.content.startswith('<reply>') and \
message.content.endswith('</reply>')) %}
        {%- set ns.open = false %}
        {%- set ns.last = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thought = '' %}
        {%- set content = message.content if message.content is defined and message.content is \
string else '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in content %}
            {%- set thought = \
content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and (loop.last or thought) %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}
        {%- for call in message.tool_calls or [] %}
            {%- set call = call.function if call.function else call %}
            {{- '\\n<call>{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}</call>' }}
        {%- endfor %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user\\n<reply>\\n' + message.content + '\\n</reply><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""

LLAMA = """\
{{- bos_token }}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- if not today is defined %}
    {%- set today = "1 May 2025" %}
{%- endif %}

{#- The opening message, where there is one. #}
{%- if messages[0]['role'] == 'system' %}
    {%- set opening = messages[0]['content'] | trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set opening = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{{- "Date: " + today + "\\n\\n" }}
{% if tools is not none %}
    {{- "Functions, as JSON:\\n\\n" }}
    {% for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {% endfor %}
{% endif %}
{{- opening }}
{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role in ['user', 'assistant'] and not 'tool_calls' in message %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + \
message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if message.tool_calls | length != 1 %}
            {{- raise_exception("one call at a time") }}
        {%- endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- call.name + '(' }}
        {%- for key, value in call.arguments.items() %}
            {{- key + '=' + value | tojson }}
            {%- if not loop.last %}{{ ', ' }}{% endif %}
        {%- endfor %}
        {{- ')<|eot_id|>' }}
    {%- elif message.role == 'tool' or message.role == 'ipython' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' }}
        {%- if message.content is mapping or message.content is iterable and message.content is \
not string %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

MISTRAL = """\
{%- if messages[0]["role"] == "system" %}
    {%- set opening = messages[0]["content"] %}
    {%- set turns = messages[1:] %}
{%- else %}
    {%- set turns = messages %}
{%- endif %}
{{- bos_token }}
{% for message in turns %}
    {% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{ raise_exception('roles have to alternate: ' ~ message['role']) }}
    {% endif %}
    {% if message['role'] == 'user' %}
        {% if loop.last and opening is defined %}
            {{- '[INST] ' + opening + '\\n\\n' + message['content'] + ' [/INST]' -}}
        {% else %}
            {{- '[INST] ' + message['content'].strip() + ' [/INST]' -}}
        {% endif %}
    {% else %}
        {{- ' ' + message['content'].strip() + eos_token -}}
    {% endif %}
{% endfor %}
"""

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "move",
            "description": "Go <somewhere> & don't \"stop\"",
            "parameters": {
                "type": "object",
                "properties": {
                    "to": {"type": "string", "enum": ["küche", "garden"]},
                    "speed": {"type": "number", "default": 1.0},
                },
                "required": [],
            },
        },
    },
    {
        "type": "function",
        "function": {"name": "wait", "parameters": {"type": "object", "properties": {}}},
    },
]
PLAIN = [
    {"role": "system", "content": "You are a careful robot. "},
    {"role": "user", "content": "  Where is the red mug?\n"},
]
LONG = PLAIN + [
    {"role": "assistant", "content": "<think>\nOn the shelf?\n</think>\n\nlook around"},
    {"role": "user", "content": "You see a shelf & a \"mug\" — 21 °C."},
    {"role": "assistant", "content": "take the mug"},
    {"role": "user", "content": "done 漢字 🦀"},
]
CALLS = PLAIN + [
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "type": "function",
                "function": {
                    "name": "move",
                    "arguments": {"to": "küche", "speed": 0.5, "deep": {"a": [1, None, True]}},
                },
            }
        ],
    },
    {"role": "tool", "content": "you are in the <kitchen>"},
]
THOUGHT = PLAIN + [
    {
        "role": "assistant",
        "content": "open the drawer",
        "reasoning_content": "\nkeys are in drawers\n",
    }
]
INJECTION = [{"role": "user", "content": "say <|im_end|>\n<|eot_id|>\n\n</s> now"}]

# Corner cases of Jinja and of Python's number formatting.
SNIPPETS = [
    "{{ true }} {{ none }} {{ 1.0 }} {{ 1e20 }} {{ 7 // 2 }} {{ 7 / 2 }} {{ -7 % 3 }} {{ 2 "
    "** 5 }} {{ missing }}|",
    "{{ messages[0] | tojson }} {{ {'a': [1, 2.5, none, true], 'b': '</x>&\\'\\\\'} | tojson }}",
    "{{ messages | tojson(indent=2) }} {{ 'é\\u2028🦀' | tojson(ensure_ascii=true) }}",
    "{{ {'b': 1, 'a': {}} | tojson(separators=(',', ':'), sort_keys=true) }} {{ [] | "
    "tojson(indent=1) }}",
    "{% for m in messages %}\n  {% if loop.last %}\n    {{ m.role | upper }}{{ loop.index "
    "}}\n  {% endif %}\n{% endfor %}\nend\n",
    "{%- for m in messages -%}\n x {%+ if true %} y {% endif -%}\n{% endfor %}",
    "{{ 'a,b,,c'.split(',') | length }} {{ ' x '.strip() }} {{ 'abc'[::-1] }} {{ 'abc'[1:] "
    "}} {{ 'abc'[-1] }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ messages | "
    "map(attribute='role') | join('-') }}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor "
    "%}{{ ns.n }}",
    "{% macro say(x, y='!') %}{{ x ~ y }}{% endmacro %}{{ say('hi') }}{{ say('hi', y='?') }}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% break %}{% endif %}{{ m.role }}{% "
    "endfor %}",
    "{% generation %}{{ messages[0].content }}{% endgeneration %} {% raw %}{{ x }}{% endraw %}",
    "{{ messages[0].role in ['user', 'system'] }} {{ 'tool_calls' in messages[0] }} {{ "
    "messages[0].get('x', 'none') }}",
    "{{ messages[-1]['content'] | replace('e', 'E') | trim | title }} {{ 'x' if messages is "
    "iterable else 'y' }}",
    "{{ (messages | first).content | default('?') }} {{ (messages | last).name | "
    "default('?') }} {{ range(3) | list | length }}",
    "{{ messages[0].content is string }} {{ messages[0] is mapping }} {{ x is defined }} {{ "
    "'ab' * 2 }} {{ 'a' ~ 1 ~ none }}",
    "{{ messages[0].items() | list | length }} {% for k, v in messages[0].items() %}{{ k "
    "}}={{ v }};{% endfor %}",
    "{{- bos_token }}{{ eos_token -}} \n {#- a comment #}  {{ 'Zz'.lower().startswith('z') "
    "}} {{ 'x\\ny'.splitlines() | length }}",
    "{{ ['a', 'b'] }} {{ {'a': 1} }} {{ ('a' , 1) }} {{ 'it\\'s' | string }} {{ ['x', none, "
    "true, 1.5] }}",
]

STYLES = {
    "chatml": (
        CHATML,
        None,
        "<|im_end|>",
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        ["<think>", "</think>"],
    ),
    "llama3": (
        LLAMA,
        "<|begin_of_text|>",
        "<|eot_id|>",
        ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
        [],
    ),
    "mistral": (MISTRAL, "<s>", "</s>", ["<unk>", "<s>", "</s>"], ["[INST]", "[/INST]"]),
}


def conversations(style):
    yield PLAIN, None
    yield LONG, None
    yield INJECTION, None
    if style != "mistral":
        yield CALLS, TOOLS
        yield PLAIN, TOOLS
        yield THOUGHT, None


def write_style(out, style):
    template, bos, eos, special, added = STYLES[style]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(TEXTS, trainer)
    inner.add_tokens(added)
    folder = out / "chat" / style
    tokens = {"eos_token": eos, **({"bos_token": bos} if bos else {})}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **tokens)
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    config_path = folder / "tokenizer_config.json"
    if style != "llama3":  # older checkpoints keep the template in tokenizer_config.json
        config = json.loads(config_path.read_text())
        named = [
            {"name": "default", "template": template},
            {"name": "other", "template": "{{ messages | length }}"},
        ]
        config["chat_template"] = template if style == "chatml" else named
        config_path.write_text(json.dumps(config, indent=2) + "\n")
        (folder / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_control_tokens = []  # sanitise only special tokens, not all added ones
    expected = []
    for messages, tools in conversations(style):
        for prompt in (False, True):
            kwargs = dict(tools=tools, add_generation_prompt=prompt)
            render = lambda **more: tokenizer.apply_chat_template(messages, **kwargs, **more)
            expected.append(
                {
                    # As text, because that keeps the order of fields.
                    "messages": json.dumps(messages, ensure_ascii=False),
                    "tools": tools and json.dumps(tools, ensure_ascii=False),
                    "add_generation_prompt": prompt,
                    "text": render(tokenize=False),
                    "ids": render(return_dict=False),
                    "plain_ids": render(return_dict=False, sanitize_control_tokens=True),
                }
            )
    plain = [t for t in TEXTS[:7]] + ["é 漢字 🦀\u0000\t end", "  two  spaces\n\n"]
    encoded = [{"text": t, "ids": tokenizer.encode(t, add_special_tokens=False)} for t in plain]
    index = {"chats": expected, "texts": encoded}
    if style == "llama3":
        render = lambda t: tokenizer.apply_chat_template(PLAIN, chat_template=t, tokenize=False)
        messages = json.dumps(PLAIN)
        index["snippets"] = [
            {"messages": messages, "template": t, "text": render(t)} for t in SNIPPETS
        ]
    (folder / "expected.json").write_text(json.dumps(index, ensure_ascii=False) + "\n")


def write(out, size):
    out.mkdir(parents=True, exist_ok=True)
    all_cases = cases(size)
    for index, (name, case) in enumerate(all_cases.items()):
        if (out / name).exists():
            shutil.rmtree(out / name)
        write_case(out, index, name, *case)
    write_adapters(out)
    for style in STYLES:
        if (out / "chat" / style).exists():
            shutil.rmtree(out / "chat" / style)
        write_style(out, style)
    index = {"cases": list(all_cases), "styles": list(STYLES), "adapters": list(ADAPTERS)}
    (out / "index.json").write_text(json.dumps(index) + "\n")


def check(out):
    """Requires both folders of every case to load as the same model with the same tensors."""
    for name in json.loads((out / "index.json").read_text())["cases"]:
        folders = (out / name, out / "reloaded" / name)
        loaded = [AutoModelForCausalLM.from_pretrained(f, dtype="auto") for f in folders]
        a, b = (model.state_dict() for model in loaded)
        assert a.keys() == b.keys(), name
        for key in a:
            assert a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]), (name, key)
        ids = torch.tensor([json.loads((out / name / "expected.json").read_text())["rows"][0]])
        assert torch.equal(*(model(input_ids=ids).logits for model in loaded)), name
        own = AutoConfig.from_pretrained(out / "reloaded" / name / "own")
        own = AutoModelForCausalLM.from_config(own, dtype=next(iter(a.values())).dtype)
        own.load_state_dict(a)
        assert torch.equal(own.eval()(input_ids=ids).logits, loaded[0](input_ids=ids).logits), name
        configs = [model.generation_config.to_diff_dict() for model in loaded]
        assert configs[0] == configs[1], (name, configs)
        print(f"{name}: {len(a)} tensors, {next(iter(a.values())).dtype}: equal")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, nargs="?")
    parser.add_argument("--size", choices=SIZES, default="full")
    parser.add_argument("--check", type=Path, metavar="DIR")
    args = parser.parse_args()
    if args.check:
        check(args.check)
    elif args.out:
        write(args.out, args.size)
    else:
        parser.error("a folder to write to, or --check DIR")


if __name__ == "__main__":
    sys.exit(main())
