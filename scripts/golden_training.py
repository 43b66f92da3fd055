#!/usr/bin/env python3
"""Golden training trajectories of specialize's recipe from the real classes (PyTorch, diffusers, transformers).

    golden_training.py OUTPUT_DIR [CASE ...]

writes train_given.safetensors: for small models filled by the rule of nn/init.h, K = 10 updates with every draw
given by the same rule (so nothing but results is stored). Per case: `CASE.loss`, `CASE.grad_norm` (before
clipping), `CASE.lr` [K]; `CASE.norms`, the L2 norm of every trained tensor at the end, and `CASE.moved`, of its
change, both in the order of sorted names (unet.* after text_encoder.*); `CASE.value.NAME` of a few; the same
of the moving average as `CASE.ema_norms`, `CASE.ema.NAME`. The same cases stand in tests/test_train_state.c.

Computed in double, the definition; the differences of PyTorch's own float32 run are printed.
"""
import importlib
import os
import sys

import diffusers
import numpy as np
import torch
import transformers
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel, compute_snr
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

torch.set_num_threads(2)
diffusers.utils.logging.set_verbosity_error()
K = 10


def rule(name, count):
    """The values v in [-1, 1) of the fill rule for a tensor of this name."""
    h = 2166136261
    for byte in name.encode():
        h = ((h ^ byte) * 16777619) % 2**32
    x = (np.uint64(h) + np.arange(count, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(2**32)
    x = x.astype(np.uint32)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return 2.0 * x.astype(np.float64) / 2.0**32 - 1.0


def given(name, *shape):
    """An input of unit variance."""
    v = rule(name, int(np.prod(shape))) * np.sqrt(3.0)
    return torch.from_numpy(v.astype(np.float32)).reshape(shape)


def fill(module, prefix=""):
    with torch.no_grad():
        for name, p in module.named_parameters():
            name = prefix + name
            v = rule(name, p.numel())
            if p.ndim == 1:
                v = (1.0 if name.endswith(".weight") else 0.0) + 0.1 * v
            else:
                v = v * np.sqrt(3.0 / (p.numel() / p.shape[0]))
            p.copy_(torch.from_numpy(v.astype(np.float32)).reshape(p.shape))
    return module.train()


# --- models ------------------------------------------------------------------------------------

TINY = dict(sample_size=8, block_out_channels=(16, 32), layers_per_block=1, cross_attention_dim=16,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), norm_num_groups=8)
MODELS = {  # name: (unet, text encoder)
    "sd1": (dict(TINY, attention_head_dim=4), dict(hidden_size=16, num_attention_heads=2, hidden_act="quick_gelu")),
    "sd2": (dict(TINY, attention_head_dim=(2, 4), use_linear_projection=True),
            dict(hidden_size=16, num_attention_heads=2, hidden_act="gelu")),
    "four": (dict(sample_size=16, block_out_channels=(16, 32, 48, 48), layers_per_block=2, cross_attention_dim=24,
                  attention_head_dim=4, norm_num_groups=8),
             dict(hidden_size=24, num_attention_heads=3, hidden_act="quick_gelu")),
}
NOISE = dict(num_train_timesteps=1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")

DEFAULTS = dict(model="sd1", rows=2, height=6, width=10, prediction="epsilon", zero_snr=False, text=False,
                lr=1e-3, schedule="constant", warmup=0, total=K, cycles=1, power=1.0, rules=None, beta1=0.9,
                beta2=0.999, decay=1e-2, eps=1e-8, clip=1.0, snr_gamma=0.0, loss="l2", huber_c=0.1, ema=0.0,
                prior=None, contrast=0.0, optimizer=None)
CASES = {
    "sd1": {},
    "sd2_v": dict(model="sd2", prediction="v_prediction"),
    "sd1_text": dict(text=True, lr=3e-4),
    "sd2_v_text": dict(model="sd2", prediction="v_prediction", text=True, lr=3e-4),
    "four": dict(model="four", rows=3, height=9, width=6, lr=1e-4),
    "snr": dict(snr_gamma=5.0, rows=3),
    "snr_v": dict(snr_gamma=5.0, rows=3, prediction="v_prediction"),
    "zero_snr_v": dict(prediction="v_prediction", zero_snr=True, snr_gamma=5.0),
    "huber": dict(loss="huber"),
    "smooth_l1": dict(loss="smooth_l1", huber_c=0.5),
    "ema": dict(ema=0.6),
    "warmup": dict(schedule="constant_with_warmup", warmup=4),
    "linear": dict(schedule="linear", warmup=3, total=8),
    "cosine": dict(schedule="cosine", warmup=2),
    "restarts": dict(schedule="cosine_with_restarts", warmup=1, cycles=3),
    "polynomial": dict(schedule="polynomial", warmup=2, total=7, power=2.0),
    "piecewise": dict(schedule="piecewise_constant", rules="1:3,0.1:6,0.01"),
    "clip": dict(clip=0.1, eps=1e-3),
    "no_clip": dict(clip=0.0, eps=1e-3),
    "adam": dict(decay=0.5, beta1=0.8, beta2=0.95, eps=1e-4),
    "one_row": dict(rows=1),
    "adamw8bit": dict(optimizer=("AdamW8bit", {})),
    "ranger": dict(optimizer=("Ranger", {})),
    "lion": dict(optimizer=("Lion", dict(weight_decay=0.3)), lr=1e-4),
    "adafactor": dict(optimizer=("Adafactor", dict(lr=None))),
    "adafactor_lr": dict(optimizer=("Adafactor", dict(relative_step=False, beta1=0.8)), text=True),
    "prodigy": dict(optimizer=("Prodigy", dict(d0=1e-4, use_bias_correction=True, safeguard_warmup=True)), lr=1.0),
    "sgd": dict(optimizer=("SGD", dict(momentum=0.9, nesterov=True, weight_decay=0.1)), lr=0.1),
    "prior": dict(rows=4, prior=0.7),
    "prior_snr": dict(rows=4, prior=0.7, snr_gamma=5.0),
    "prior_contrast": dict(rows=6, prior=1.0, contrast=0.1),
}
VALUES = ["unet.conv_in.weight", "unet.conv_out.bias", "unet.time_embedding.linear_1.weight",
          "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
          "unet.mid_block.attentions.0.transformer_blocks.0.norm1.bias",
          "text_encoder.text_model.encoder.layers.0.self_attn.v_proj.weight",
          "text_encoder.text_model.final_layer_norm.weight"]


# --- training ----------------------------------------------------------------------------------

def row_losses(prediction, target, c):
    d = prediction - target
    if c["loss"] == "l2":
        e = d**2
    elif c["loss"] == "huber":
        e = 2 * c["huber_c"] * (torch.sqrt(d**2 + c["huber_c"]**2) - c["huber_c"])
    else:
        e = 2 * (torch.sqrt(d**2 + c["huber_c"]**2) - c["huber_c"])
    return e.mean(dim=(1, 2, 3))


def nt_xent(prediction, target, tau=0.5):
    """NT-Xent of rows of vectors [B, P], a prediction's positive being its target."""
    B = len(prediction)
    z = torch.cat([prediction, target])
    s = torch.nn.functional.cosine_similarity(z[:, None], z[None], dim=2, eps=1e-8) / tau
    s = s.masked_fill(torch.eye(2 * B, dtype=torch.bool), float("-inf"))
    return torch.nn.functional.cross_entropy(s, (torch.arange(2 * B) + B) % (2 * B))


def contrast(prediction, target):
    return torch.stack([nt_xent(prediction[:, c].flatten(1), target[:, c].flatten(1))
                        for c in range(prediction.shape[1])]).mean()


def run(case, dtype):
    c = dict(DEFAULTS, **CASES[case])
    unet_config, text_config = MODELS[c["model"]]
    unet = fill(UNet2DConditionModel(**unet_config)).to(dtype)
    text = CLIPTextModel(CLIPTextConfig(vocab_size=100, intermediate_size=37, num_hidden_layers=2,
                                        max_position_embeddings=77, eos_token_id=2, **text_config))
    prefix = "" if next(iter(dict(text.named_parameters()))).startswith("text_model.") else "text_model."
    text = fill(text, prefix).to(dtype)
    scheduler = DDPMScheduler(prediction_type=c["prediction"], rescale_betas_zero_snr=c["zero_snr"], **NOISE)
    trained = {f"unet.{n}": p for n, p in unet.named_parameters()}
    if c["text"]:
        trained.update({f"text_encoder.{prefix}{n}": p for n, p in text.named_parameters()})
    start = {n: p.detach().clone() for n, p in trained.items()}
    params = list(trained.values())
    make, options = c["optimizer"] or ("AdamW", dict(betas=(c["beta1"], c["beta2"]), weight_decay=c["decay"],
                                                     eps=c["eps"]))
    if hasattr(torch.optim, make) and make != "Adafactor":
        make = getattr(torch.optim, make)
    else:
        make = getattr(importlib.import_module("golden_optimizers"), make)
    optimizer = make(params, **{"lr": c["lr"], **options})
    own_rate = options.get("lr", c["lr"]) is None
    lr = None if own_rate else get_scheduler(c["schedule"], optimizer, step_rules=c["rules"],
                                             num_warmup_steps=c["warmup"], num_training_steps=c["total"],
                                             num_cycles=c["cycles"], power=c["power"])
    average = EMAModel(params, decay=c["ema"]) if c["ema"] else None

    R, h, w = c["rows"], c["height"], c["width"]
    latents = given(f"{case}.latents", K, R, 4, h, w).to(dtype)
    noise = given(f"{case}.noise", K, R, 4, h, w).to(dtype)
    timesteps = (97 * torch.arange(K * R) + 13).remainder(1000).reshape(K, R)
    ids = (7 * torch.arange(K * R * 77) + 3).remainder(89).reshape(K, R, 77)
    out = {"loss": [], "grad_norm": [], "lr": []}
    for k in range(K):
        t = timesteps[k]
        x = scheduler.add_noise(latents[k], noise[k], t)
        target = noise[k] if c["prediction"] == "epsilon" else scheduler.get_velocity(latents[k], noise[k], t)
        with torch.set_grad_enabled(c["text"]):
            context = text(input_ids=ids[k]).last_hidden_state
        prediction = unet(x, t, encoder_hidden_states=context).sample
        loss = row_losses(prediction, target, c)
        half = R // 2 if c["prior"] is not None else R
        if c["snr_gamma"]:
            snr = compute_snr(scheduler, t).to(dtype)
            weight = torch.minimum(snr, torch.full_like(snr, c["snr_gamma"]))
            weight = weight / (snr if c["prediction"] == "epsilon" else snr + 1)
            weight[half:] = 1
            loss = loss * weight
        if c["prior"] is not None:
            halves = [loss[rows].mean() + c["contrast"] * contrast(prediction[rows], target[rows])
                      for rows in (slice(half), slice(half, R))]
            loss = halves[0] + c["prior"] * halves[1]
        loss = loss.mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, c["clip"] if c["clip"] > 0 else float("inf"))
        out["lr"].append(min(0.01, (k + 1) ** -0.5) if own_rate else lr.get_last_lr()[0])
        optimizer.step()
        if lr:
            lr.step()
        optimizer.zero_grad()
        if average:
            average.step(params)
        out["loss"].append(loss.item())
        out["grad_norm"].append(norm.item())
    out = {n: torch.tensor(v, dtype=torch.float64) for n, v in out.items()}
    names = sorted(trained)
    out["norms"] = torch.stack([trained[n].detach().double().norm() for n in names])
    out["moved"] = torch.stack([(trained[n].detach() - start[n]).double().norm() for n in names])
    for n in VALUES:
        if n in trained and case != "four":
            out[f"value.{n}"] = trained[n].detach().float().contiguous().clone()
    if average:
        shadow = dict(zip(trained, average.shadow_params))
        out["ema_norms"] = torch.stack([shadow[n].double().norm() for n in names])
        for n in VALUES[:2]:
            out[f"ema.{n}"] = shadow[n].float().contiguous().clone()
    return out


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    out = {}
    for case in sys.argv[2:] or CASES:
        exact, single = run(case, torch.float64), run(case, torch.float32)
        away = {n: float(((exact[n] - single[n]).abs() / exact[n].abs().clamp_min(1e-30)).max())
                for n in ("loss", "grad_norm", "norms", "moved")}
        print(case, *(f"{n} {v:.1e}" for n, v in away.items()))
        out.update({f"{case}.{n}": v for n, v in exact.items()})
    save_file(out, os.path.join(sys.argv[1], "train_given.safetensors"),
              metadata={"made_by": "scripts/golden_training.py", "torch": torch.__version__,
                        "diffusers": diffusers.__version__, "transformers": transformers.__version__})


if __name__ == "__main__":
    main()
