#!/usr/bin/env python3
"""Golden values of the networks from the real classes (PyTorch, diffusers, transformers).

    golden_networks.py OUTPUT_DIR

writes nn_clip.safetensors, nn_unet.safetensors, nn_vae.safetensors and nn_judge.safetensors (the
face judge is our own: here it is written with PyTorch's layers). Weights follow the fill rule of nn/init.h, so only inputs, outputs, cotangents and gradients are stored, NCHW as the classes
give them, under `case.name`. The scalar differentiated is sum(output * cotangent). Of every case:
gradients of the inputs, of a few parameters (`case.grad.NAME`), and the L2 norm of every gradient
(`case.norms`, in the order of sorted names; 0 where the output does not depend on it). The same
configurations stand in tests/nn_cases.h. Everything is computed in double and rounded to f32 at the
end, so that a difference is ours alone.
"""

import os
import sys

import numpy as np
import torch
import transformers
import diffusers
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

torch.set_num_threads(2)


def rule(name, count):
    """The values v in [-1, 1) of the fill rule for a tensor of this name."""
    h = 2166136261
    for byte in name.encode():
        h = ((h ^ byte) * 16777619) % 2**32
    x = (np.uint64(h) + np.arange(count, dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(
        2**32
    )
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
    return torch.from_numpy(v.astype(np.float32)).reshape(shape).double()


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
    return module.eval().double()


def shrink(module):
    """Make the inputs of the norms so small that their eps shows."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if "conv_in." in name or ".conv2." in name or ".proj_in." in name:
                p.mul_(2.0**-6)
    return module


def stored(t):
    """As it goes to the file."""
    return (t.float() if t.is_floating_point() else t).contiguous().clone()


def record(out, case, module, prefix, tensors, loss, grad_inputs, keep):
    """Store `tensors` and the gradients of `loss`."""
    loss.backward()
    for name, t in tensors.items():
        out[f"{case}.{name}"] = stored(t.detach())
    for name, t in grad_inputs.items():
        out[f"{case}.grad_in.{name}"] = stored(t.grad)
    grads = {prefix + n: p.grad for n, p in module.named_parameters()}
    norms = [0.0 if grads[n] is None else float(grads[n].double().norm()) for n in sorted(grads)]
    out[f"{case}.norms"] = torch.tensor(norms, dtype=torch.float64)
    for name in keep:
        out[f"{case}.grad.{name}"] = stored(grads[name])


# --- U-Net ---------------------------------------------------------------------------------------

TINY = dict(
    sample_size=32,
    block_out_channels=(32, 64),
    layers_per_block=2,
    cross_attention_dim=32,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    norm_num_groups=32,
)
FOUR = dict(
    sample_size=16,
    block_out_channels=(16, 32, 48, 48),
    layers_per_block=2,
    cross_attention_dim=24,
    attention_head_dim=4,
    norm_num_groups=8,
)
ONE = dict(
    sample_size=8,
    block_out_channels=(12,),
    down_block_types=("DownBlock2D",),
    up_block_types=("CrossAttnUpBlock2D",),
    layers_per_block=3,
    cross_attention_dim=5,
    attention_head_dim=1,
    norm_num_groups=6,
)
SHRUNK = ("f",)  # cases whose weights are made small, see shrink()

UNETS = {  # name: (config, sample shape, timesteps, context length)
    "a": (dict(TINY, attention_head_dim=8), (2, 4, 16, 16), (10, 700), 77),
    "b": (
        dict(TINY, attention_head_dim=(2, 4), use_linear_projection=True),
        (2, 4, 16, 16),
        (10, 700),
        77,
    ),
    "c": (FOUR, (2, 4, 12, 20), (10.25, 700.5), 77),
    "d": (
        dict(
            sample_size=16,
            in_channels=5,
            out_channels=3,
            block_out_channels=(16, 24, 32),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            cross_attention_dim=20,
            attention_head_dim=(2, 3, 4),
            use_linear_projection=True,
            norm_num_groups=4,
            norm_eps=1e-3,
            flip_sin_to_cos=False,
            freq_shift=1,
            center_input_sample=True,
            mid_block_scale_factor=1.5,
            transformer_layers_per_block=2,
        ),
        (3, 5, 9, 14),
        (0, 333.75, 999),
        7,
    ),
    "e": (ONE, (1, 4, 5, 3), (42,), 1),
    "f": (ONE, (1, 4, 6, 5), (42,), 3),
}


def unets():
    out = {}
    for case, (config, shape, steps, length) in UNETS.items():
        net = fill(UNet2DConditionModel(**config))
        if case in SHRUNK:
            shrink(net)
        sample = given(f"{case}.sample", *shape).requires_grad_()
        context = given(
            f"{case}.context", shape[0], length, config["cross_attention_dim"]
        ).requires_grad_()
        timestep = torch.tensor(steps, dtype=torch.float32)
        y = net(sample, timestep, encoder_hidden_states=context).sample
        cotangent = given(f"{case}.cotangent", *y.shape)
        record(
            out,
            case,
            net,
            "",
            dict(sample=sample, timestep=timestep, context=context, output=y, cotangent=cotangent),
            (y * cotangent).sum(),
            dict(sample=sample, context=context),
            [
                "conv_in.weight",
                "conv_out.bias",
                "time_embedding.linear_1.bias",
                "down_blocks.0.resnets.0.norm2.weight",
                "up_blocks.0.resnets.0.conv_shortcut.bias",
                "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight",
                "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0.bias",
                "mid_block.attentions.0.proj_in.bias",
                "mid_block.attentions.0.norm.weight",
                "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj.bias",
            ],
        )
    return out


# --- VAE -----------------------------------------------------------------------------------------

VAES = {  # name: (config, image shape, latent shape)
    "a": (
        dict(block_out_channels=(32, 64), layers_per_block=1, norm_num_groups=32),
        (1, 3, 32, 32),
        (1, 4, 16, 16),
    ),
    "c": (
        dict(block_out_channels=(16, 32, 32), layers_per_block=2, norm_num_groups=8),
        (2, 3, 20, 28),
        (2, 4, 5, 7),
    ),
    "d": (
        dict(
            block_out_channels=(8, 12, 20), layers_per_block=3, norm_num_groups=2, latent_channels=5
        ),
        (1, 3, 23, 18),
        (1, 5, 3, 4),
    ),
    "f": (
        dict(block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4),
        (1, 3, 10, 8),
        (1, 4, 5, 4),
    ),
}


def vaes():
    out = {}
    for case, (config, image, latent) in VAES.items():
        n = len(config["block_out_channels"])
        net = fill(
            AutoencoderKL(
                in_channels=3,
                out_channels=3,
                sample_size=32,
                down_block_types=("DownEncoderBlock2D",) * n,
                up_block_types=("UpDecoderBlock2D",) * n,
                **config,
            )
        )
        if case in SHRUNK:
            shrink(net)
        pixels = given(f"{case}.pixels", *image).requires_grad_()
        posterior = net.encode(pixels).latent_dist
        dmean = given(f"{case}.cotangent_mean", *posterior.mean.shape)
        dlogvar = given(f"{case}.cotangent_logvar", *posterior.mean.shape)
        record(
            out,
            f"{case}.encode",
            net,
            "",
            dict(
                pixels=pixels,
                mean=posterior.mean,
                logvar=posterior.logvar,
                cotangent_mean=dmean,
                cotangent_logvar=dlogvar,
                kl=posterior.kl(),
            ),
            (posterior.mean * dmean).sum() + (posterior.logvar * dlogvar).sum(),
            dict(pixels=pixels),
            [
                "encoder.conv_in.weight",
                "quant_conv.weight",
                "encoder.down_blocks.0.downsamplers.0.conv.bias",
                "encoder.mid_block.attentions.0.to_q.bias",
                "encoder.mid_block.attentions.0.to_out.0.weight",
            ],
        )
        net.zero_grad(set_to_none=True)
        z = given(f"{case}.latent", *latent).requires_grad_()
        y = net.decode(z).sample
        cotangent = given(f"{case}.cotangent", *y.shape)
        record(
            out,
            f"{case}.decode",
            net,
            "",
            dict(latent=z, output=y, cotangent=cotangent),
            (y * cotangent).sum(),
            dict(latent=z),
            [
                "decoder.conv_out.weight",
                "post_quant_conv.weight",
                "decoder.up_blocks.0.upsamplers.0.conv.bias",
                "decoder.mid_block.attentions.0.group_norm.weight",
            ],
        )
    return out


# --- text ----------------------------------------------------------------------------------------

CLIPS = {  # name: (config, rows, length, clip_skip, masked)
    "quick": (
        dict(
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=5,
            num_attention_heads=4,
            vocab_size=1000,
            hidden_act="quick_gelu",
        ),
        2,
        77,
        0,
        False,
    ),
    "gelu": (
        dict(
            hidden_size=32,
            intermediate_size=37,
            num_hidden_layers=5,
            num_attention_heads=4,
            vocab_size=1000,
            hidden_act="gelu",
        ),
        1,
        77,
        1,
        False,
    ),
    "mask": (
        dict(
            hidden_size=24,
            intermediate_size=50,
            num_hidden_layers=3,
            num_attention_heads=3,
            vocab_size=100,
            hidden_act="gelu",
            layer_norm_eps=1e-4,
        ),
        3,
        13,
        0,
        True,
    ),
}


def clips():
    out = {}
    for case, (config, rows, length, skip, masked) in CLIPS.items():
        net = CLIPTextModel(CLIPTextConfig(max_position_embeddings=77, eos_token_id=2, **config))
        # transformers 5 drops the "text_model." of its own saved names.
        prefix = (
            ""
            if next(iter(dict(net.named_parameters()))).startswith("text_model.")
            else "text_model."
        )
        fill(net, prefix)
        vocabulary = config["vocab_size"]
        ids = torch.arange(rows * length).reshape(rows, length) * 7 % (vocabulary - 10) + 3
        mask = None
        if masked:
            mask = torch.ones(rows, length)
            mask[1, 5:] = 0
            mask[2, 12:] = 0
        result = net(
            ids, attention_mask=None if mask is None else mask.long(), output_hidden_states=True
        )
        y = result.last_hidden_state
        if skip:
            norm = dict(net.named_modules())[
                "text_model.final_layer_norm" if not prefix else "final_layer_norm"
            ]
            y = norm(result.hidden_states[-1 - skip])
        cotangent = given(f"{case}.cotangent", *y.shape)
        tensors = dict(input_ids=ids, output=y, cotangent=cotangent)
        if masked:
            tensors["mask"] = mask
        last = "text_model.encoder.layers.0"
        record(
            out,
            case,
            net,
            prefix,
            tensors,
            (y * cotangent).sum(),
            {},
            [
                "text_model.embeddings.position_embedding.weight",
                f"{last}.self_attn.q_proj.weight",
                f"{last}.self_attn.v_proj.bias",
                f"{last}.layer_norm1.weight",
                f"{last}.mlp.fc1.bias",
            ],
        )
    return out


# --- face judge ----------------------------------------------------------------------------------


class Level(torch.nn.Module):
    """Halve the sides, then a residual block."""

    def __init__(self, inputs, outputs, groups):
        super().__init__()
        self.down = torch.nn.Conv2d(inputs, outputs, 3, 2, 1)
        self.norm1 = torch.nn.GroupNorm(groups, outputs, eps=1e-6)
        self.conv1 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1)
        self.norm2 = torch.nn.GroupNorm(groups, outputs, eps=1e-6)
        self.conv2 = torch.nn.Conv2d(outputs, outputs, 3, 1, 1)

    def forward(self, x):
        silu = torch.nn.functional.silu
        x = self.down(x)
        return x + self.conv2(silu(self.norm2(self.conv1(silu(self.norm1(x))))))


class FaceJudge(torch.nn.Module):
    def __init__(self, resolution, channels, hidden, outputs, groups):
        super().__init__()
        self.conv_in = torch.nn.Conv2d(3, channels[0], 3, 2, 1)
        self.levels = torch.nn.ModuleList(
            Level(a, b, groups) for a, b in zip(channels, channels[1:])
        )
        self.norm_out = torch.nn.GroupNorm(groups, channels[-1], eps=1e-6)
        self.fc1 = torch.nn.Linear((resolution // 16) ** 2 * channels[-1], hidden)
        self.fc2 = torch.nn.Linear(hidden, outputs)
        self.scale = torch.nn.ParameterDict(  # beside the weights in a file, never used here
            {name: torch.nn.Parameter(torch.zeros(outputs)) for name in ("mean", "deviation", "r2")}
        )

    def forward(self, x):
        silu = torch.nn.functional.silu
        x = silu(self.conv_in(x))
        for level in self.levels:
            x = level(x)
        x = silu(self.norm_out(x)).permute(0, 2, 3, 1).flatten(1)  # the program's order: channels last
        return self.fc2(silu(self.fc1(x)))


def judges():
    out = {}
    net = fill(FaceJudge(32, (8, 12, 16, 20), 14, 5, 4))
    pixels = given("a.pixels", 3, 3, 32, 32).requires_grad_()
    y = net(pixels)
    cotangent = given("a.cotangent", *y.shape)
    record(
        out,
        "a",
        net,
        "",
        dict(pixels=pixels, output=y, cotangent=cotangent),
        (y * cotangent).sum(),
        dict(pixels=pixels),
        ["conv_in.weight", "levels.1.down.bias", "levels.2.norm1.weight", "norm_out.bias", "fc1.bias"],
    )
    return out


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.split("\n\n")[1].strip())
    made_with = dict(
        torch=torch.__version__,
        diffusers=diffusers.__version__,
        transformers=transformers.__version__,
        format="pt",
    )
    for name, make in (("clip", clips), ("unet", unets), ("vae", vaes), ("judge", judges)):
        path = os.path.join(sys.argv[1], f"nn_{name}.safetensors")
        save_file(make(), path, metadata=made_with)
        print(path, os.path.getsize(path), "bytes")


if __name__ == "__main__":
    main()
