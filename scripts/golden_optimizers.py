#!/usr/bin/env python3
"""Golden trajectories of optimizers, from PyTorch and from the programs of their authors.

    golden_optimizers.py OUTPUT_DIR [CASE ...]

writes optimizers.safetensors: for each case `CASE.TENSOR` [2,n], the values after updates 5 and 24 (of large
tensors every 37th), and for Prodigy `CASE.d` [24], its step size after every update. Inputs follow the rule
of nn/init.h, so nothing but results is stored: a tensor begins as 0.5 v(NAME), `zero` as 0; the gradient of
update k = 0.. is p - 0.5 v(NAME.goal) + 0.4 v(NAME.k), the rate is halved from k = 12 on. The same cases
stand in tests/test_optimizer_rules.c.

Sources: torch.optim (AdamW, SGD), transformers (Adafactor), and from PyPI prodigyopt, lion-pytorch, and the codes
of bitsandbytes. Written down here: the rest of 8-bit AdamW, from bitsandbytes' CUDA kernel (its CPU form
decays first and finds codes by a coarser table), and Ranger, from lessw2020/Ranger-Deep-Learning-Optimizer:
ranger/ranger.py, which is no package (both give the same numbers). In double, but 8-bit AdamW and Prodigy,
whose first steps are as small as the rounding of float32, in float32.
"""
import importlib.metadata
import math
import os
import sys

import numpy as np
import torch
import transformers
from bitsandbytes.functional import create_dynamic_map
from lion_pytorch import Lion
from prodigyopt import Prodigy
from safetensors.torch import save_file
from transformers.optimization import Adafactor

torch.set_num_threads(1)
K, KEPT, STRIDE = 24, (5, 24), 37
SHAPES = {"conv": (5, 3, 3, 3), "point": (6, 4, 1, 1), "linear": (7, 11), "vector": (13,), "one": (1,), "zero": (4, 5)}
LARGE = {"wide": (17, 30, 3, 3), "table": (70, 60), "small": (4095,)}


def rule(name, shape):
    """The values v in [-1, 1) of the fill rule for this name."""
    h = 2166136261
    for byte in name.encode():
        h = ((h ^ byte) * 16777619) % 2**32
    x = (np.uint64(h) + np.arange(math.prod(shape), dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(2**32)
    x = x.astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    v = (2.0 * x.astype(np.float64) / 2.0**32 - 1.0).astype(np.float32)
    return torch.from_numpy(v).reshape(shape)


class Ranger(torch.optim.Optimizer):
    """Version 20.4.11: centred gradients, rectified Adam, lookahead."""

    def __init__(self, params, lr, alpha=0.5, k=6, betas=(0.95, 0.999), eps=1e-5, weight_decay=0.0, gc_conv_only=False,
                 use_gc=True):
        super().__init__(params, dict(lr=lr, alpha=alpha, k=k, betas=betas, eps=eps, weight_decay=weight_decay,
                                      above=3 if gc_conv_only else 1, use_gc=use_gc))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                s, g = self.state[p], p.grad
                if not s:
                    s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p), slow=p.clone())
                if group["use_gc"] and g.dim() > group["above"]:
                    g = g - g.mean(dim=tuple(range(1, g.dim())), keepdim=True)
                s["t"] += 1
                t = s["t"]
                s["v"].mul_(b2).add_((1 - b2) * g * g)
                s["m"].mul_(b1).add_((1 - b1) * g)
                top = 2 / (1 - b2) - 1
                n = top - 2 * t * b2**t / (1 - b2**t)
                r = 1 / (1 - b1**t)
                if group["weight_decay"]:
                    p.add_(p, alpha=-group["weight_decay"] * group["lr"])
                if n > 5:
                    r *= math.sqrt((1 - b2**t) * (n - 4) / (top - 4) * (n - 2) / n * top / (top - 2))
                    p.addcdiv_(s["m"], s["v"].sqrt() + group["eps"], value=-r * group["lr"])
                else:
                    p.add_(s["m"], alpha=-r * group["lr"])
                if t % group["k"] == 0:
                    s["slow"].add_(p - s["slow"], alpha=group["alpha"])
                    p.copy_(s["slow"])


class AdamW8bit(torch.optim.Optimizer):
    """Moments as the nearest codes of blocks of 256; tensors under 4096 values have torch.optim.AdamW's step
    (bitsandbytes decays these last too)."""

    def __init__(self, params, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=1e-2):
        super().__init__(params, dict(lr=lr, betas=betas, eps=eps, weight_decay=weight_decay))
        self.codes = [create_dynamic_map(signed=True), create_dynamic_map(signed=False)]

    def through_codes(self, x, codes):
        blocks = torch.nn.functional.pad(x.flatten(), (0, -x.numel() % 256)).reshape(-1, 256)
        largest = blocks.abs().amax(dim=1, keepdim=True)
        nearest = torch.bucketize(blocks / largest, ((codes[1:] + codes[:-1]) / 2).to(x.dtype))
        return (codes[nearest] * largest).flatten()[: x.numel()].reshape(x.shape)

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            b1, b2 = group["betas"]
            for p in group["params"]:
                s, g = self.state[p], p.grad
                if not s:
                    s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
                s["t"] += 1
                c1, c2 = 1 - b1 ** s["t"], math.sqrt(1 - b2 ** s["t"])
                s["m"], s["v"] = b1 * s["m"] + (1 - b1) * g, b2 * s["v"] + (1 - b2) * g * g
                step, decay = group["lr"] * c2 / c1 * s["m"] / (s["v"].sqrt() + c2 * group["eps"]), group["weight_decay"]
                if p.numel() < 4096:
                    p.mul_(1 - group["lr"] * decay).sub_(step)
                    continue
                p.sub_(step).mul_(1 - group["lr"] * decay)
                s["m"], s["v"] = (self.through_codes(x, c) for x, c in zip((s["m"], s["v"]), self.codes))


CASES = {
    "adamw": (torch.optim.AdamW, dict(lr=0.02)),
    "adamw_set": (torch.optim.AdamW, dict(lr=0.02, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3)),
    "adamw8bit": (AdamW8bit, dict(lr=0.02)),
    "adamw8bit_set": (AdamW8bit, dict(lr=0.02, betas=(0.8, 0.95), eps=1e-4, weight_decay=0.3)),
    "ranger": (Ranger, dict(lr=0.02)),
    "ranger_set": (Ranger, dict(lr=0.02, alpha=0.3, k=4, betas=(0.9, 0.99), eps=1e-3, weight_decay=0.2)),
    "ranger_conv": (Ranger, dict(lr=0.02, gc_conv_only=True)),
    "ranger_no_gc": (Ranger, dict(lr=0.02, use_gc=False)),
    "lion": (Lion, dict(lr=0.01)),
    "lion_set": (Lion, dict(lr=0.01, betas=(0.8, 0.95), weight_decay=0.5)),
    "adafactor": (Adafactor, dict()),
    "adafactor_warm": (Adafactor, dict(warmup_init=True, beta1=0.8, weight_decay=0.3)),
    "adafactor_lr": (Adafactor, dict(lr=0.02, relative_step=False)),
    "adafactor_set": (Adafactor, dict(lr=0.02, relative_step=False, scale_parameter=False, clip_threshold=0.7,
                                      decay_rate=-0.5, eps=(1e-10, 1e-2), weight_decay=0.1)),
    "prodigy": (Prodigy, dict(lr=1.0)),
    "prodigy_safe": (Prodigy, dict(lr=1.0, use_bias_correction=True, safeguard_warmup=True, weight_decay=0.1,
                                   d_coef=2.0, d0=1e-4)),
    "prodigy_coupled": (Prodigy, dict(lr=0.5, decouple=False, weight_decay=0.1, growth_rate=1.5, beta3=0.9, d0=1e-3)),
    "sgd": (torch.optim.SGD, dict(lr=0.1)),
    "sgd_momentum": (torch.optim.SGD, dict(lr=0.05, momentum=0.9, weight_decay=0.1)),
    "sgd_dampening": (torch.optim.SGD, dict(lr=0.1, momentum=0.8, dampening=0.3)),
    "sgd_nesterov": (torch.optim.SGD, dict(lr=0.05, momentum=0.9, nesterov=True, weight_decay=0.1)),
}


def run(case):
    make, options = CASES[case]
    is_8bit = make is AdamW8bit
    dtype = torch.float32 if is_8bit or make is Prodigy else torch.float64
    shapes = LARGE if is_8bit else SHAPES
    params = {n: torch.nn.Parameter((0.5 * (n != "zero") * rule(n, s)).to(dtype)) for n, s in shapes.items()}
    optimizer = make(list(params.values()), **options)
    kept, out = {n: [] for n in params}, {}
    d = []
    for k in range(K):
        for n, p in params.items():
            p.grad = (p.detach() - 0.5 * rule(f"{n}.goal", p.shape) + 0.4 * rule(f"{n}.{k}", p.shape)).to(dtype)
        for group in optimizer.param_groups:
            if group["lr"] is not None and k == 12:
                group["lr"] *= 0.5
        optimizer.step()
        d.append(optimizer.param_groups[0].get("d", 0.0))
        for n, p in params.items():
            if k + 1 in KEPT:
                kept[n].append(p.detach().flatten()[:: STRIDE if is_8bit else 1].float().clone())
    for n in params:
        out[f"{case}.{n}"] = torch.stack(kept[n])
    if make is Prodigy:
        out[f"{case}.d"] = torch.tensor(d, dtype=torch.float64)
    return out


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out = {}
    for case in sys.argv[2:] or CASES:
        out.update(run(case))
    packages = ("bitsandbytes", "lion-pytorch", "prodigyopt")
    save_file(out, os.path.join(sys.argv[1], "optimizers.safetensors"),
              metadata={"made_by": "scripts/golden_optimizers.py", "torch": torch.__version__,
                        "transformers": transformers.__version__,
                        **{n: importlib.metadata.version(n) for n in packages}})


if __name__ == "__main__":
    main()
