#!/usr/bin/env python3
"""Golden LoRA training trajectories of personalize's recipe from the real classes (PyTorch, diffusers,
transformers, peft).

    golden_personalize.py OUTPUT_DIR [CASE ...]

writes personalize.safetensors: for a small model and adapters filled by the rule (scripts/golden_lora.py), K = 20
updates with every draw given by the same rule. Per case: `CASE.loss`, `CASE.grad_norm` (before clipping), `CASE.lr`
[K]; `CASE.norms`, the L2 norm of every trained tensor at the end, and `CASE.moved`, of its change, both in the order
of sorted names (PEFT's, after "text_encoder." or "unet."); `CASE.value.NAME` of a few. The same cases stand in
tests/test_lora_training.c. Computed in double; the differences of PyTorch's own float32 run are printed.
"""
import math
import os
import sys

import peft
import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import compute_snr
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from golden_lora import ATTENTION, TEXT, attach
from golden_training import MODELS, NOISE, contrast, fill, given

K = 20
CONVOLUTION = ["conv1", "conv2", "conv_shortcut", "conv", "proj_in", "proj_out"]
WIDE = ("conv1", "conv2", r"downsamplers\.0\.conv", r"upsamplers\.0\.conv")

DEFAULTS = dict(rows=4, height=4, width=6, text=True, lora=dict(r=4, lora_alpha=4), conv=0, lr=1e-3, text_lr=None,
                schedule="constant", warmup=0, prior=1.0, contrast=0.0, snr_gamma=0.0, frozen_prior=False,
                prediction="epsilon", ranger=False)
CASES = {
    "plain": dict(text=False, prior=None, rows=2),
    "prior": dict(prior=0.7, rows=4),
    "selfage": dict(contrast=0.1, rows=6),
    "ranger": dict(contrast=0.1, ranger=True),
    "snr": dict(snr_gamma=5.0, contrast=0.1, prediction="v_prediction"),
    "frozen": dict(frozen_prior=True, prior=0.5),
    "text_lr": dict(text_lr=2e-4, schedule="linear"),
    "rslora": dict(lora=dict(r=3, lora_alpha=5, use_rslora=True), schedule="cosine", warmup=3),
    "conv": dict(lora=dict(r=3, lora_alpha=2), conv=2, text=False),
    "dora": dict(lora=dict(r=4, lora_alpha=6, use_dora=True), contrast=0.1),
}
VALUES = ["unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight",
          "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight",
          "unet.up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0.lora_magnitude_vector",
          "text_encoder.text_model.encoder.layers.0.self_attn.v_proj.lora_B.weight"]


class Ranger(torch.optim.Optimizer):
    """yuval-alaluf/SAM: training/ranger.py (20.4.11) with its defaults: centred gradients, RAdam, lookahead."""

    def __init__(self, params, lr, weight_decay):
        super().__init__(params, dict(lr=lr, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        b1, b2, top = 0.95, 0.999, 2 / (1 - 0.999) - 1
        for group, p in ((group, p) for group in self.param_groups for p in group["params"]):
            s = self.state[p]
            if not s:
                s.update(t=0, m=torch.zeros_like(p), v=torch.zeros_like(p), slow=p.clone())
            g = p.grad if p.ndim == 1 else p.grad - p.grad.mean(dim=tuple(range(1, p.ndim)), keepdim=True)
            s["t"] += 1
            s["m"].lerp_(g, 1 - b1)
            s["v"].lerp_(g * g, 1 - b2)
            n = top - 2 * s["t"] * b2**s["t"] / (1 - b2**s["t"])
            rate, way = group["lr"] / (1 - b1**s["t"]), s["m"]
            if n > 5:
                rate *= math.sqrt((1 - b2**s["t"]) * (n - 4) / (top - 4) * (n - 2) / n * top / (top - 2))
                way = way / (s["v"].sqrt() + 1e-5)
            p.sub_(group["weight_decay"] * group["lr"] * p).sub_(rate * way)
            if s["t"] % 6 == 0:
                s["slow"].lerp_(p, 0.5)
                p.copy_(s["slow"])


def adapt(net, prefix, lora, targets, conv=0):
    """Adapters on a filled network: {PEFT's name: parameter}."""
    config = dict(lora, target_modules=targets)
    if conv:
        config.update(rank_pattern={n: conv for n in WIDE}, alpha_pattern={n: lora["lora_alpha"] for n in WIDE})
    net.requires_grad_(False)
    return attach(net.double(), prefix, config)


def use_adapters(net, on):
    for module in net.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(on)


def step_loss(c, unet, text, scheduler, latents, noise, t, ids, dtype):
    half = len(t) // 2 if c["prior"] is not None else len(t)
    x = scheduler.add_noise(latents, noise, t)
    target = noise if c["prediction"] == "epsilon" else scheduler.get_velocity(latents, noise, t)
    with torch.set_grad_enabled(c["text"]):
        context = text(input_ids=ids).last_hidden_state
    prediction = unet(x, t, encoder_hidden_states=context).sample
    if c["frozen_prior"]:
        use_adapters(unet, False), use_adapters(text, False)
        with torch.no_grad():
            alone = text(input_ids=ids[half:]).last_hidden_state
            answer = unet(x[half:], t[half:], encoder_hidden_states=alone).sample
        use_adapters(unet, True), use_adapters(text, True)
        target = torch.cat([target[:half], answer])
    loss = ((prediction - target)**2).mean(dim=(1, 2, 3))
    if c["snr_gamma"]:
        snr = compute_snr(scheduler, t).to(dtype)
        weight = snr.clamp_max(c["snr_gamma"]) / (snr if c["prediction"] == "epsilon" else snr + 1)
        weight[half:] = 1
        loss = loss * weight
    if c["prior"] is None:
        return loss.mean()
    parts = [loss[r].mean() + (c["contrast"] * contrast(prediction[r], target[r]) if c["contrast"] else 0)
             for r in (slice(half), slice(half, None))]
    return parts[0] + c["prior"] * parts[1]


def run(case, dtype):
    c = dict(DEFAULTS, **CASES[case])
    unet_config, text_config = MODELS["sd1"]
    unet = fill(UNet2DConditionModel(**unet_config))
    text = CLIPTextModel(CLIPTextConfig(vocab_size=100, intermediate_size=37, num_hidden_layers=2,
                                        max_position_embeddings=77, eos_token_id=2, **text_config))
    prefix = "" if next(iter(dict(text.named_parameters()))).startswith("text_model.") else "text_model."
    fill(text, prefix)
    factors = adapt(unet, "", c["lora"], ATTENTION + (CONVOLUTION if c["conv"] else []), c["conv"])
    trained = {f"unet.{n}": p for n, p in factors.items()}
    groups = [dict(params=list(trained.values()))]
    if c["text"]:
        factors = adapt(text, prefix, c["lora"], TEXT)
        trained.update({f"text_encoder.{n}": p for n, p in factors.items()})
        groups.append(dict(params=list(factors.values()), lr=c["text_lr"] or c["lr"]))
    unet.to(dtype), text.to(dtype)
    params = list(trained.values())
    start = {n: p.detach().clone() for n, p in trained.items()}
    optimizer = (Ranger if c["ranger"] else torch.optim.AdamW)(groups, lr=c["lr"], weight_decay=1e-2)
    lr = get_scheduler(c["schedule"], optimizer, num_warmup_steps=c["warmup"], num_training_steps=K)
    scheduler = DDPMScheduler(prediction_type=c["prediction"], **NOISE)
    R, h, w = c["rows"], c["height"], c["width"]
    latents = given(f"{case}.latents", K, R, 4, h, w).to(dtype)
    noise = given(f"{case}.noise", K, R, 4, h, w).to(dtype)
    timesteps = (97 * torch.arange(K * R) + 13).remainder(1000).reshape(K, R)
    ids = (7 * torch.arange(K * R * 77) + 3).remainder(89).reshape(K, R, 77)
    out = {"loss": [], "grad_norm": [], "lr": []}
    for k in range(K):
        loss = step_loss(c, unet, text, scheduler, latents[k], noise[k], timesteps[k], ids[k], dtype)
        loss.backward()
        out["grad_norm"].append(torch.nn.utils.clip_grad_norm_(params, 1.0).item())
        out["lr"].append(lr.get_last_lr()[0])
        out["loss"].append(loss.item())
        optimizer.step()
        lr.step()
        optimizer.zero_grad()
    out = {n: torch.tensor(v, dtype=torch.float64) for n, v in out.items()}
    names = sorted(trained)
    out["norms"] = torch.stack([trained[n].detach().double().norm() for n in names])
    out["moved"] = torch.stack([(trained[n].detach() - start[n]).double().norm() for n in names])
    for n in VALUES:
        if n in trained:
            out[f"value.{n}"] = trained[n].detach().float().contiguous().clone()
    return out


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out = {}
    for case in sys.argv[2:] or CASES:
        exact, single = run(case, torch.float64), run(case, torch.float32)
        away = {n: float(((exact[n] - single[n]).abs() / exact[n].abs().clamp_min(1e-30)).max())
                for n in ("loss", "grad_norm", "norms", "moved")}
        print(case, *(f"{n} {v:.1e}" for n, v in away.items()), flush=True)
        out.update({f"{case}.{n}": v for n, v in exact.items()})
    save_file(out, os.path.join(sys.argv[1], "personalize.safetensors"),
              metadata={"made_by": "scripts/golden_personalize.py", "torch": torch.__version__, "peft": peft.__version__})


if __name__ == "__main__":
    main()
