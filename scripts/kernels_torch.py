"""PyTorch's side of `cargo bench --bench kernels`: one case, `wall_ms cpu_ms MB` on the last line.

Usage: kernels_torch.py logits|linear TOKENS f32|bf16 naive|naive-kept|verl|trl. `naive` is eager
log_softmax with both outputs. `verl` and `trl` chunk the work as those projects do: verl 512 tokens
of a head at a time (for logits: logsumexp per row and entropy per 2048 rows), TRL tiles of the
vocabulary with running sums. bf16 heads are computed in f32, except for their GEMMs.
"""

import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F

V, H, TILE, CHUNK = 151936, 896, 8192, 512


def naive(z, ids):
    log_p = F.log_softmax(z, dim=-1)
    return log_p.gather(-1, ids[:, None])[:, 0], -(log_p.exp() * log_p).sum(-1)


def verl_logits(z, ids):
    if z.dtype == torch.float32:
        lse = torch.stack([torch.logsumexp(row, dim=-1) for row in z])
        log_p = z.gather(-1, ids[:, None])[:, 0] - lse
    else:
        log_p = torch.stack([F.log_softmax(row, dim=-1)[i] for row, i in zip(z, ids)])
    entropies = []
    for part in z.split(2048):
        part = part.float()
        entropies.append(torch.logsumexp(part, -1) - (F.softmax(part, -1) * part).sum(-1))
    return log_p, torch.cat(entropies)


class VerlHead(torch.autograd.Function):
    """Whole rows of a few tokens at a time; the backward pass recomputes them."""

    @staticmethod
    def forward(ctx, x, w, ids):
        ctx.save_for_backward(x, w, ids)
        log_p, entropy = [], []
        for part, i in zip(x.split(CHUNK), ids.split(CHUNK)):
            z = (part @ w.t()).float()
            p = z.softmax(-1)
            log_p.append(z.log_softmax(-1).gather(-1, i[:, None])[:, 0])
            entropy.append(torch.logsumexp(z, -1) - (p * z).sum(-1))
        return torch.cat(log_p), torch.cat(entropy)

    @staticmethod
    def backward(ctx, g, h):
        x, w, ids = ctx.saved_tensors
        dx, dw = torch.empty_like(x), torch.zeros_like(w)
        for start in range(0, x.shape[0], CHUNK):
            rows = slice(start, start + CHUNK)
            z = (x[rows] @ w.t()).float()
            p, log_p = z.softmax(-1), z.log_softmax(-1)
            entropy = torch.logsumexp(z, -1) - (p * z).sum(-1)
            one = torch.zeros_like(z).scatter_(-1, ids[rows, None], 1.0)
            dz = g[rows, None] * (one - p) - h[rows, None] * p * (log_p + entropy[:, None])
            dz = dz.to(w.dtype)
            dx[rows] = dz @ w
            dw += dz.t() @ x[rows]
        return dx, dw, None


class TrlHead(torch.autograd.Function):
    """Tiles of the vocabulary with running max, sum and weighted sum; gradients in f32."""

    @staticmethod
    def forward(ctx, x, w, ids):
        n = x.shape[0]
        m, s, t = torch.full((n,), -torch.inf), torch.zeros(n), torch.zeros(n)
        own = torch.zeros(n)
        for start in range(0, V, TILE):
            z = (x @ w[start : start + TILE].t()).float()
            top = torch.maximum(m, z.amax(-1))
            e, keep = (z - top[:, None]).exp(), (m - top).exp()
            s, t, m = s * keep + e.sum(-1), t * keep + (z * e).sum(-1), top
            inside = (ids >= start) & (ids < start + z.shape[1])
            column = (ids - start).clamp(0, z.shape[1] - 1)
            own = torch.where(inside, z.gather(-1, column[:, None])[:, 0], own)
        lse, mean = m + s.log(), t / s
        ctx.save_for_backward(x, w, ids, lse, mean)
        return own - lse, lse - mean

    @staticmethod
    def backward(ctx, g, h):
        x, w, ids, lse, mean = ctx.saved_tensors
        dx, dw = torch.zeros_like(x), torch.empty_like(w)
        for start in range(0, V, TILE):
            part = w[start : start + TILE]
            z = (x @ part.t()).float()
            p = (z - lse[:, None]).exp()
            dz = p * (h[:, None] * (mean[:, None] - z) - g[:, None])
            inside = ((ids >= start) & (ids < start + z.shape[1])).nonzero()[:, 0]
            dz[inside, ids[inside] - start] += g[inside]
            dz = dz.to(w.dtype)
            dx.addmm_(dz, part)
            torch.mm(dz.t(), x, out=dw[start : start + TILE])
        return dx, dw, None


def main():
    group, tokens, dtype, variant = sys.argv[1:5]
    tokens = int(tokens)
    variant = variant.removesuffix("-kept")
    torch.set_num_threads(2)
    torch.manual_seed(0)
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16}[dtype]
    ids = torch.arange(tokens) * 7919 % V
    if group == "logits":
        inputs = [(torch.randn(tokens, V) * 2).to(dtype).requires_grad_()]
        run = {"naive": naive, "verl": verl_logits}[variant]
    else:
        inputs = [torch.randn(tokens, H).to(dtype), torch.randn(V, H).mul_(2 / H**0.5).to(dtype)]
        inputs = [x.requires_grad_() for x in inputs]
        run = {
            "naive": lambda x, w, i: naive(x @ w.t(), i),
            "verl": VerlHead.apply,
            "trl": TrlHead.apply,
        }[variant]
    with open("/proc/self/status") as status:
        base = next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024
    figures = []
    for _ in range(4):
        for x in inputs:
            x.grad = None
        wall, cpu = time.perf_counter(), time.process_time()
        log_p, entropy = run(*inputs, ids)
        (log_p.float().sum() + 0.1 * entropy.float().sum()).backward()
        figures.append(((time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3))
        del log_p, entropy
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - base
    print(*(statistics.median(f[i] for f in figures[1:]) for i in (0, 1)), peak)


main()
