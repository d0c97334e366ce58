"""Golden numbers of every algorithm other than EPO, from the papers' formulas, token by token.

Writes tests/data/algorithms.json. Gradients are central differences in float64; quantities under a
stop-gradient are held fixed. Needs numpy, for its random numbers.

    python scripts/algorithms_numpy.py
"""

import json
import math
import pathlib

import numpy

rng = numpy.random.RandomState(20250917)

# Five rows of six positions. Rows 0 and 1 are turns 0 and 1 of trajectory 4. Row 2 holds the two
# turns of trajectory 1 with an observation in between. Row 3 is one short turn of trajectory 2;
# row 4 is padding.
TOKENS = 6
MASK = [
    [1, 1, 1, 1, 0, 0],
    [0, 1, 1, 0, 0, 0],
    [1, 1, 0, 1, 1, 1],
    [1, 0, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
]
TURNS = [[0] * 6, [1] * 6, [0, 0, 0, 1, 1, 1], [0] * 6, [0] * 6]
TRAJECTORIES = [4, 4, 1, 2, 7]
CELLS = [(b, t) for b in range(len(MASK)) for t in range(TOKENS) if MASK[b][t]]


def table(low, high):
    return rng.uniform(low, high, (len(MASK), TOKENS)).tolist()


def at(values, cell):
    return values[cell[0]][cell[1]]


def turn_of(cell):
    return TRAJECTORIES[cell[0]], TURNS[cell[0]][cell[1]]


def turn_cells(turn):
    return [cell for cell in CELLS if turn_of(cell) == turn]


def aggregate(losses, mode):
    """losses: {cell: number}."""
    if mode == "token-mean":
        return sum(losses.values()) / len(losses)
    if mode == "seq-mean-token-mean":
        means = []
        for b in range(len(MASK)):
            row = [losses[cell] for cell in CELLS if cell[0] == b]
            if row:
                means.append(sum(row) / len(row))
        return sum(means) / len(means)
    assert mode == "turn-mean"
    trajectories = {}
    for turn in {turn_of(cell) for cell in CELLS}:
        cells = turn_cells(turn)
        trajectories.setdefault(turn[0], []).append(sum(losses[c] for c in cells) / len(cells))
    return sum(sum(turns) / len(turns) for turns in trajectories.values()) / len(trajectories)


def differences(function, table):
    """The gradient of function(table) by central differences, zero where masked out."""
    step = 1e-6
    gradient = [[0.0] * TOKENS for _ in MASK]
    for b, t in CELLS:
        up = [row[:] for row in table]
        down = [row[:] for row in table]
        up[b][t] += step
        down[b][t] -= step
        gradient[b][t] = (function(up) - function(down)) / (2 * step)
    return gradient


def clip(x, low, high):
    return min(max(x, low), high)


# ---- policy losses ----

LOG_PROBS = table(-2.5, -0.1)
OLD = [[x + d for x, d in zip(row, drift)] for row, drift in zip(LOG_PROBS, table(-0.6, 0.6))]
ADVANTAGES = table(-1.5, 1.5)
WEIGHTS = table(0.0, 2.0)


def sequence_ratio(log_probs, cell):
    cells = turn_cells(turn_of(cell))
    return math.exp(sum(at(log_probs, c) - at(OLD, c) for c in cells) / len(cells))


def policy_token(case, log_probs, fixed, cell):
    """The loss of a token; `fixed` replaces log_probs under a stop-gradient."""
    a, log_prob, old = at(ADVANTAGES, cell), at(log_probs, cell), at(OLD, cell)
    low, high = 1 - case["clip_low"], 1 + case["clip_high"]
    if case["kind"] == "reinforce":
        return -a * log_prob
    if case["kind"] == "cispo":
        return -clip(math.exp(at(fixed, cell) - old), low, high) * a * log_prob
    if case["kind"] == "gspo":
        ratio = sequence_ratio(fixed, cell) * math.exp(log_prob - at(fixed, cell))
    else:
        ratio = math.exp(log_prob - old)
    loss = -min(a * ratio, a * clip(ratio, low, high))
    if case.get("dual_clip") and a < 0:
        loss = min(loss, -a * case["dual_clip"])
    return loss


def policy_case(case):
    weights = WEIGHTS if case["weighted"] else None

    def loss(log_probs):
        tokens = {}
        for cell in CELLS:
            factor = at(weights, cell) if weights else 1.0
            tokens[cell] = factor * policy_token(case, log_probs, LOG_PROBS, cell)
        return aggregate(tokens, case["aggregation"])

    ratios = {}
    for cell in CELLS:
        own = math.exp(at(LOG_PROBS, cell) - at(OLD, cell))
        ratios[cell] = sequence_ratio(LOG_PROBS, cell) if case["kind"] == "gspo" else own
    low, high = 1 - case["clip_low"], 1 + case["clip_high"]
    clipped = 0
    for cell, ratio in ratios.items():
        a = at(ADVANTAGES, cell)
        if case["kind"] == "cispo":
            clipped += not low <= ratio <= high
        else:
            clipped += (a > 0 and ratio > high) or (a < 0 and ratio < low)
    case["clipped"] = None if case["kind"] == "reinforce" else clipped / len(CELLS)
    case["ratio_max"] = max(ratios.values())
    case["loss"] = loss(LOG_PROBS)
    case["gradient"] = differences(loss, LOG_PROBS)
    return case


def policy_cases():
    kinds = [
        {"kind": "ppo", "clip_low": 0.2, "clip_high": 0.28, "dual_clip": 1.4},
        {"kind": "gspo", "clip_low": 0.05, "clip_high": 0.08},
        {"kind": "cispo", "clip_low": 1.0, "clip_high": 0.28},
        {"kind": "cispo", "clip_low": 0.3, "clip_high": 0.2},
        {"kind": "reinforce", "clip_low": 0.0, "clip_high": 0.0},
    ]
    return [
        policy_case({**kind, "aggregation": mode, "weighted": weighted})
        for kind in kinds
        for mode in ["token-mean", "seq-mean-token-mean", "turn-mean"]
        for weighted in [False, True]
    ]


# ---- importance correction: OLD is the trainer's own pass, ROLLOUT the engine's ----

ROLLOUT = [[x + d for x, d in zip(row, drift)] for row, drift in zip(OLD, table(-0.9, 0.9))]


def importance_case(case):
    ratios, weights = {}, {}
    for cell in CELLS:
        cells = [cell] if case["level"] == "token" else turn_cells(turn_of(cell))
        ratio = 1.0
        for c in cells:
            ratio *= math.exp(at(OLD, c)) / math.exp(at(ROLLOUT, c))
        if case["level"] == "sequence-mean":
            ratio **= 1 / len(cells)
        ratios[cell] = ratio
        if case["method"] == "truncate":
            weights[cell] = min(ratio, case["max"])
        else:
            weights[cell] = ratio if case["min"] <= ratio <= case["max"] else 0.0
    n = len(CELLS)
    case["mean"] = sum(ratios.values()) / n
    case["largest"] = max(ratios.values())
    case["cut"] = sum(weights[c] != ratios[c] for c in CELLS) / n
    case["ess"] = sum(weights.values()) ** 2 / sum(w * w for w in weights.values()) / n
    case["kl"] = sum(at(ROLLOUT, c) - at(OLD, c) for c in CELLS) / n
    case["weights"] = [[weights.get((b, t), 0.0) for t in range(TOKENS)] for b in range(len(MASK))]
    return case


def importance_cases():
    cases = []
    for level in ["token", "sequence", "sequence-mean"]:
        cases.append(importance_case({"method": "truncate", "level": level, "max": 1.25}))
        cases.append(importance_case({"method": "mask", "level": level, "min": 0.7, "max": 1.5}))
    return cases


# ---- KL in the reward ----

REFERENCE = table(-2.5, -0.1)
REWARDS = table(-1.0, 2.0)


def kl_estimate(kind, log_prob, reference):
    if kind == "k1":
        return log_prob - reference
    if kind == "abs":
        return abs(log_prob - reference)
    if kind == "k2":
        return (log_prob - reference) ** 2 / 2
    return math.exp(reference) / math.exp(log_prob) - 1 + log_prob - reference


def kl_rewards(kind, coef):
    kls = {c: kl_estimate(kind, at(LOG_PROBS, c), at(REFERENCE, c)) for c in CELLS}
    rewards = [row[:] for row in REWARDS]
    for (b, t), kl in kls.items():
        rewards[b][t] = REWARDS[b][t] - coef * kl
    return {"kind": kind, "coef": coef, "rewards": rewards, "mean": sum(kls.values()) / len(kls)}


def adaptive_kl():
    coef, target, horizon, samples = 0.2, 0.3, 512, 64
    observed = [0.31, 1.5, 0.02, 0.29, 0.0, 0.36]
    coefs = []
    for kl in observed:
        error = clip((kl - target) / target, -0.2, 0.2)
        coef = coef + coef * error * samples / horizon
        coefs.append(coef)
    start = {"coef": 0.2, "target": target, "horizon": horizon, "samples": samples}
    return {**start, "observed": observed, "coefs": coefs}


# ---- DAPO ----


def dapo():
    scores = [1.0, 0.0, 1.0, 1.0, 0.5, 0.0, 0.5, 0.0]
    groups = [3, 3, 8, 8, 0, 0, 5, 9]
    keep = []
    for group in groups:
        members = [s for s, g in zip(scores, groups) if g == group]
        keep.append(int(numpy.std(members) > 0))
    limit, buffer, penalty = 128, 32, 0.7
    lengths = [1, 95, 96, 97, 112, 127, 128, 129, 500]
    rewards = []
    for length in lengths:
        if length <= limit - buffer:
            r = 0.0
        elif length <= limit:
            r = ((limit - buffer) - length) / buffer
        else:
            r = -1.0
        rewards.append(penalty * r)
    overlong = {"limit": limit, "buffer": buffer, "penalty": penalty}
    overlong |= {"lengths": lengths, "rewards": rewards}
    return {"scores": scores, "groups": groups, "keep": keep, "overlong": overlong}


# ---- estimators: episodes of some tokens in groups ----


def estimators():
    scores = rng.uniform(-1, 2, 7).tolist()
    groups = [2, 2, 2, 5, 5, 9, 5]
    tokens = [4, 1, 6, 3, 2, 5, 3]

    def group(i):
        return [s for s, g in zip(scores, groups) if g == groups[i]]

    def over_tokens(values):
        spread = [v for v, n in zip(values, tokens) for _ in range(n)]
        mean, variance = numpy.mean(spread), numpy.var(spread, ddof=1)
        return [float((v - mean) / math.sqrt(variance + 1e-8)) for v in values]

    dr, rloo = [], []
    for i, score in enumerate(scores):
        members = group(i)
        alone = len(members) == 1
        dr.append(score if alone else score - sum(members) / len(members))
        rloo.append(score if alone else score - (sum(members) - score) / (len(members) - 1))
    stds = [numpy.std(group(i), ddof=1) if len(group(i)) > 1 else 1.0 for i in range(len(dr))]
    grpo = [d / (std + 1e-6) for d, std in zip(dr, stds)]
    of = {
        "grpo": [float(x) for x in grpo],
        "dr-grpo": dr,
        "rloo": rloo,
        "reinforce-pp": over_tokens(scores),
        "reinforce-pp-baseline": over_tokens(dr),
    }
    return {"scores": scores, "groups": groups, "tokens": tokens, "advantages": of}


# ---- GAE: the sum Σ (γλ)^k δ, written out ----

VALUES = table(-1.0, 1.0)


def gae(rewards, values, gamma, lam):
    n = len(rewards)
    following = values[1:] + [0.0]
    delta = [rewards[i] + gamma * following[i] - values[i] for i in range(n)]
    return [sum((gamma * lam) ** (j - i) * delta[j] for j in range(i, n)) for i in range(n)]


def trajectory_turns():
    """[[cells of a turn] of a trajectory]."""
    turns = sorted({turn_of(cell) for cell in CELLS})
    names = sorted({x[0] for x in turns})
    return [[turn_cells(x) for x in turns if x[0] == name] for name in names]


def place(values):
    return [[values.get((b, t), 0.0) for t in range(TOKENS)] for b in range(len(MASK))]


def along(cells, rewards, gamma, lam):
    values = [at(VALUES, c) for c in cells]
    return dict(zip(cells, gae([rewards[c] for c in cells], values, gamma, lam)))


def gae_cases():
    gamma, lam, turn_gamma, turn_lam = 0.9, 0.8, 0.95, 0.7
    rewards = {cell: at(REWARDS, cell) for cell in CELLS}
    within, over, both = {}, {}, {}
    for turns in trajectory_turns():
        over.update(along([cell for turn in turns for cell in turn], rewards, gamma, lam))
        ends = along([turn[-1] for turn in turns], rewards, turn_gamma, turn_lam)
        for turn in turns:
            within.update(along(turn, rewards, gamma, lam))
            shaped = dict(rewards)
            shaped[turn[-1]] = ends[turn[-1]] + at(VALUES, turn[-1])
            both.update(along(turn, shaped, gamma, lam))
    names = [1, 0, 1, 1, 0]
    turn_rewards, turn_values = rng.uniform(-1, 1, 5).tolist(), rng.uniform(-1, 1, 5).tolist()
    turn_advantages = [0.0] * 5
    for name in [0, 1]:
        own = [i for i in range(5) if names[i] == name]
        found = gae([turn_rewards[i] for i in own], [turn_values[i] for i in own], gamma, lam)
        for i, advantage in zip(own, found):
            turn_advantages[i] = advantage
    values = list(over.values())
    mean = numpy.mean(values)
    std = math.sqrt(numpy.var(values, ddof=1) + 1e-8)
    whitened = {cell: float((a - mean) / std) for cell, a in over.items()}
    return {
        "tokens": {"gamma": gamma, "lambda": lam},
        "turns": {"gamma": turn_gamma, "lambda": turn_lam},
        "within_turns": place(within),
        "over_trajectories": place(over),
        "whitened": place(whitened),
        "bi_level": place(both),
        "over_turns": {
            "trajectories": names,
            "rewards": turn_rewards,
            "values": turn_values,
            "advantages": turn_advantages,
        },
    }


# ---- entropy arms ----

ENTROPIES = table(0.05, 2.0)


def covariance():
    a = numpy.mean([at(ADVANTAGES, c) for c in CELLS])
    p = numpy.mean([at(OLD, c) for c in CELLS])
    cov = {c: float((at(ADVANTAGES, c) - a) * (at(OLD, c) - p)) for c in CELLS}
    low, high = 0.05, 0.6
    inside = {c: float(low < x < high) for c, x in cov.items()}
    share, coef = 0.3, 0.6
    number = max(int(share * len(CELLS)), 1)
    top = sorted(CELLS, key=lambda c: -cov[c])[:number]

    def term(log_probs):
        tokens = {c: abs(at(log_probs, c) - at(OLD, c)) if c in top else 0.0 for c in CELLS}
        return coef * aggregate(tokens, "turn-mean")

    return {
        "covariances": place(cov),
        "low": low,
        "high": high,
        "candidates": place(inside),
        "share": share,
        "coef": coef,
        "number": number,
        "top": place({c: 1.0 for c in top}),
        "kl_term": term(LOG_PROBS),
        "kl_gradient": differences(term, LOG_PROBS),
    }


def top_entropy():
    share = 0.25
    threshold = numpy.quantile([at(ENTROPIES, c) for c in CELLS], 1 - share)
    chosen = {c: float(at(ENTROPIES, c) >= threshold) for c in CELLS}
    return {"share": share, "chosen": place(chosen)}


def bonuses():
    lam, start, end, steps = 0.05, 1.0, 0.2, 8
    cases = []
    for k in [0, 3, 8, 20]:
        beta = end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(k / steps, 1)))

        def term(entropies, beta=beta):
            return -lam * beta * aggregate({c: at(entropies, c) for c in CELLS}, "turn-mean")

        cases.append({"step": k, "term": term(ENTROPIES), "gradient": differences(term, ENTROPIES)})
    return {"lambda": lam, "from": start, "to": end, "total_steps": steps, "cases": cases}


def adaptive():
    observed = [0.9, 0.4, 0.5, 0.3, 0.2, 0.7, 0.8, 0.45, 0.1]
    target = 0.5
    skywork, weight = [], 0.01
    for entropy in observed:
        skywork.append(weight if entropy <= target else 0.0)
        weight = clip(weight + (0.004 if entropy <= target else -0.004), 0.0, 0.02)
    sac, log_weight = [], math.log(0.01)
    for entropy in observed:
        sac.append(math.exp(log_weight))
        log_weight = min(log_weight - 0.5 * (entropy - target), math.log(0.02))
    return {
        "lambda": 0.01,
        "target": target,
        "max": 0.02,
        "observed": observed,
        "skywork": {"rate": 0.004, "weights": skywork},
        "sac": {"rate": 0.5, "weights": sac},
    }


def main():
    golden = {
        "mask": MASK,
        "turns": TURNS,
        "trajectories": TRAJECTORIES,
        "log_probs": LOG_PROBS,
        "old_log_probs": OLD,
        "rollout_log_probs": ROLLOUT,
        "ref_log_probs": REFERENCE,
        "advantages": ADVANTAGES,
        "weights": WEIGHTS,
        "rewards": REWARDS,
        "values": VALUES,
        "entropies": ENTROPIES,
        "policy": policy_cases(),
        "importance": importance_cases(),
        "kl_rewards": [kl_rewards(kind, 0.3) for kind in ["k1", "abs", "k2", "k3"]],
        "adaptive_kl": adaptive_kl(),
        "dapo": dapo(),
        "estimators": estimators(),
        "gae": gae_cases(),
        "covariance": covariance(),
        "top_entropy": top_entropy(),
        "decayed_bonus": bonuses(),
        "adaptive_entropy": adaptive(),
    }
    path = pathlib.Path(__file__).parent.parent / "tests" / "data" / "algorithms.json"
    path.write_text(json.dumps(golden) + "\n")


if __name__ == "__main__":
    main()
