"""PyTorch's side of `cargo bench --bench decoder`: a training step of the same decoder, eager.

Usage: decoder_torch.py MODEL.safetensors BATCH LENGTH THREADS. Answers every line on stdin with the
loss of one forward, backward, clip and AdamW step; the bench measures this process from outside.
"""

import json
import struct
import sys

import torch
from torch import nn
import torch.nn.functional as F

HEADS, KV_HEADS, EPS, THETA = 4, 2, 1e-6, 10000.0


def load(path):
    """Loads the tensors of a safetensors file of f32."""
    with open(path, "rb") as file:
        data = file.read()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    header.pop("__metadata__", None)
    body = bytearray(data[8 + size :])

    def tensor(entry):
        start, end = entry["data_offsets"]
        flat = torch.frombuffer(body, dtype=torch.float32, offset=start, count=(end - start) // 4)
        return flat.reshape(entry["shape"]).clone()

    return {name: tensor(entry) for name, entry in header.items()}


class Attention(nn.Module):
    def __init__(self, h):
        super().__init__()
        d = h // HEADS
        self.q_proj = nn.Linear(h, h)
        self.k_proj = nn.Linear(h, KV_HEADS * d)
        self.v_proj = nn.Linear(h, KV_HEADS * d)
        self.o_proj = nn.Linear(h, h, bias=False)

    def forward(self, x, cos, sin):
        b, t, h = x.shape
        split = lambda y, heads: y.view(b, t, heads, h // HEADS).transpose(1, 2)
        q = split(self.q_proj(x), HEADS)
        k = split(self.k_proj(x), KV_HEADS)
        v = split(self.v_proj(x), KV_HEADS)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).reshape(b, t, h))


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-b, a), dim=-1) * sin


class Mlp(nn.Module):
    def __init__(self, h, f):
        super().__init__()
        self.gate_proj = nn.Linear(h, f, bias=False)
        self.up_proj = nn.Linear(h, f, bias=False)
        self.down_proj = nn.Linear(f, h, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    def __init__(self, h, f):
        super().__init__()
        self.input_layernorm = nn.RMSNorm(h, eps=EPS)
        self.self_attn = Attention(h)
        self.post_attention_layernorm = nn.RMSNorm(h, eps=EPS)
        self.mlp = Mlp(h, f)

    def forward(self, x, cos, sin):
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    def __init__(self, v, h, f, layers):
        super().__init__()
        self.embed_tokens = nn.Embedding(v, h)
        self.layers = nn.ModuleList(Block(h, f) for _ in range(layers))
        self.norm = nn.RMSNorm(h, eps=EPS)

    def forward(self, ids, cos, sin):
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.linear(self.norm(x), self.embed_tokens.weight)


def main():
    path, batch, length, threads = sys.argv[1], *map(int, sys.argv[2:5])
    torch.set_num_threads(threads)
    tensors = {name.removeprefix("model."): tensor for name, tensor in load(path).items()}
    v, h = tensors["embed_tokens.weight"].shape
    f = tensors["layers.0.mlp.gate_proj.weight"].shape[0]
    layers = sum(name.endswith("o_proj.weight") for name in tensors)
    model = Decoder(v, h, f, layers)
    model.load_state_dict(tensors)
    del tensors

    index = torch.arange(batch * length + 1)
    tokens = (index * 2654435761 % 2**32) * v // 2**32
    ids, targets = tokens[:-1].view(batch, length), tokens[1:].view(batch, length)
    d = h // HEADS
    frequencies = THETA ** (-torch.arange(0, d, 2).double() / d)
    angles = torch.outer(torch.arange(length).double(), frequencies)
    cos, sin = (torch.cat((x, x), dim=-1).float() for x in (angles.cos(), angles.sin()))

    undecayed = (".bias", "norm.weight")
    decayed = [p for name, p in model.named_parameters() if not name.endswith(undecayed)]
    others = [p for name, p in model.named_parameters() if name.endswith(undecayed)]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3)

    print("ready", torch.__version__, flush=True)
    for _ in sys.stdin:
        log_p = F.log_softmax(model(ids, cos, sin), dim=-1)
        entropy = -(log_p.exp() * log_p).sum(-1)
        loss = (log_p.gather(-1, targets.unsqueeze(-1)).squeeze(-1) + 0.1 * entropy).mean().neg()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        print(loss.item(), flush=True)


if __name__ == "__main__":
    main()
