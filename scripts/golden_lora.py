#!/usr/bin/env python3
"""Golden values of LoRA, rsLoRA and DoRA from peft on diffusers' U-Net and transformers' CLIP.

    golden_lora.py OUTPUT_DIR

writes lora.safetensors. Base weights and factors follow the fill rule of nn/init.h (a factor's name
is "<module>.lora_A.weight", B a quarter of the rule; a magnitude is 1 + v/10 with v of the name
"<module>.lora_magnitude_vector.weight"), and so do inputs and cotangents, "<case>.sample" and so on:
only outputs and gradients are stored. The scalar differentiated is sum(output * cotangent). Of every
case: the output, the gradients of the inputs, the L2 norm of the gradient of every factor
(`case.norms`, in the order of sorted names), the gradients of the first and the last module
(`case.grad.NAME`). Everything is computed in double and rounded to f32 at the end.
"""

import os
import sys

import peft
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from golden_networks import CLIPS, FOUR, TINY, fill, given, rule, stored

ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TRANSFORMER = ATTENTION + ["proj_in", "proj_out", "ff.net.0.proj", "ff.net.2"]
CONVOLUTION = ["conv1", "conv2", "conv_shortcut", "time_emb_proj", "downsamplers.0.conv", "upsamplers.0.conv"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]


def wide(rank, alpha):
    """Another rank for 3x3 convolutions."""
    names = ("conv1", "conv2", r"downsamplers\.0\.conv", r"upsamplers\.0\.conv")
    return dict(rank_pattern={n: rank for n in names}, alpha_pattern={n: alpha for n in names})


UNETS = {  # name: (network, sample shape, LoRA)
    "attention": ("tiny", (2, 4, 16, 16), dict(r=4, lora_alpha=4, target_modules=ATTENTION)),
    "kohya": ("four", (2, 4, 12, 20), dict(r=3, lora_alpha=1, target_modules=TRANSFORMER)),
    "conv": (
        "four",
        (2, 4, 12, 20),
        dict(r=4, lora_alpha=4, target_modules=TRANSFORMER + CONVOLUTION, **wide(2, 3)),
    ),
    "rslora": (
        "linear",
        (2, 4, 16, 16),
        dict(r=5, lora_alpha=3, use_rslora=True, target_modules=TRANSFORMER),
    ),
    "dora": (
        "four",
        (2, 4, 12, 20),
        dict(r=4, lora_alpha=6, use_dora=True, target_modules=TRANSFORMER + CONVOLUTION, **wide(2, 2)),
    ),
}
NETS = {
    "tiny": dict(TINY, attention_head_dim=8),
    "linear": dict(TINY, attention_head_dim=(2, 4), use_linear_projection=True),
    "four": FOUR,
}
TEXTS = {
    "text": dict(r=4, lora_alpha=4, target_modules=TEXT),
    "text_dora": dict(r=6, lora_alpha=3, use_dora=True, target_modules=TEXT + ["fc1", "fc2"]),
}


def attach(net, prefix, lora):
    """Inject adapters into a filled network and fill them; returns {our name: parameter}."""
    inject_adapter_in_model(LoraConfig(init_lora_weights=True, **lora), net)
    ours = {}
    for name, p in net.named_parameters():
        if ".lora_" not in name:
            assert not p.requires_grad, name
            continue
        name = prefix + name.replace(".default", "")
        v = torch.from_numpy(rule(name, p.numel())).reshape(p.shape)
        with torch.no_grad():
            if "lora_magnitude" in name:
                p.copy_((1.0 + 0.1 * v).float())
            else:
                p.copy_((v * (3.0 / (p.numel() / p.shape[0])) ** 0.5).float())
                if "lora_B" in name:
                    p.mul_(0.25)
        assert p.dtype == torch.float64
        ours[name.replace("magnitude_vector.weight", "magnitude_vector")] = p
    return ours


def record(out, case, y, inputs, factors):
    cotangent = given(f"{case}.cotangent", *y.shape)
    (y * cotangent).sum().backward()
    out[f"{case}.output"] = stored(y.detach())
    for name, t in inputs.items():
        out[f"{case}.grad_in.{name}"] = stored(t.grad)
    names = sorted(factors)
    out[f"{case}.norms"] = torch.tensor([float(factors[n].grad.norm()) for n in names], dtype=torch.float64)
    modules = [n for n in factors if ".lora_A." in n]
    for first in (modules[0], modules[-1]):
        module = first[: first.index(".lora_A.")]
        for name in names:
            if name.startswith(module + ".lora_"):
                out[f"{case}.grad.{name}"] = stored(factors[name].grad)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.split("\n\n")[1].strip())
    out = {}
    for case, (net, shape, lora) in UNETS.items():
        unet = fill(UNet2DConditionModel(**NETS[net]))
        factors = attach(unet, "", lora)
        sample = given(f"{case}.sample", *shape).requires_grad_()
        context = given(f"{case}.context", shape[0], 7, NETS[net]["cross_attention_dim"]).requires_grad_()
        y = unet(sample, torch.tensor([10.0, 700.0]), encoder_hidden_states=context).sample
        record(out, case, y, dict(sample=sample, context=context), factors)
    for case, lora in TEXTS.items():
        config, rows, length = CLIPS["quick"][:3]
        net = CLIPTextModel(CLIPTextConfig(max_position_embeddings=77, eos_token_id=2, **config))
        named = next(iter(dict(net.named_parameters()))).startswith("text_model.")
        prefix = "" if named else "text_model."  # transformers 5 drops it
        factors = attach(fill(net, prefix), prefix, lora)
        ids = torch.arange(rows * length).reshape(rows, length) * 7 % (config["vocab_size"] - 10) + 3
        record(out, case, net(ids).last_hidden_state, {}, factors)
    path = os.path.join(sys.argv[1], "lora.safetensors")
    save_file(out, path, metadata=dict(torch=torch.__version__, peft=peft.__version__, format="pt"))
    print(path, os.path.getsize(path), "bytes")


if __name__ == "__main__":
    main()
