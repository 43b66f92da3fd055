#!/usr/bin/env python3
"""PyTorch's and diffusers' side of `make bench`: one row, one process, one line of JSON.

    bench_peer.py --row ROW --model DIR [--px 512] [--batch B] [--threads N] [--repeat 3]
                  [--mixed_precision no|bf16] [--gradient_checkpointing auto|on|off]

The same rows, weights and sizes as `agewright bench`: channels last, scaled-dot-product attention,
fused AdamW, bf16 through autocast, weights that a row does not update in bf16 when the computing is. The LoRA
rows are diffusers' own recipe (train_dreambooth_lora.py): peft adapters in f32. The best of `repeat` after
one round to warm up; memory is the largest resident size of this process.
"""

import time

import bench_row
import diffusers
import torch

TEXT_TOKENS = 77
UNET_FACTOR = 8


def parse():
    parser = bench_row.parser(__doc__.splitlines()[0], sorted(ROWS))
    parser.add_argument("--gradient_checkpointing", choices=["auto", "on", "off"], default="auto")
    return bench_row.parse(parser)


def channels_last(t):
    return t.to(memory_format=torch.channels_last)


def load(cls, folder, part, dtype=torch.float32):
    return channels_last(cls.from_pretrained(folder, subfolder=part, torch_dtype=dtype))


def frozen_dtype(o):
    return torch.bfloat16 if o.mixed_precision == "bf16" else torch.float32


def load_unet(o, dtype=torch.float32):
    unet = load(diffusers.UNet2DConditionModel, o.model, "unet", dtype).eval().requires_grad_(False)
    side = o.px // UNET_FACTOR
    x = channels_last(torch.randn(o.batch, unet.config.in_channels, side, side))
    context = torch.randn(o.batch, TEXT_TOKENS, unet.config.cross_attention_dim)
    return unet, x, context, torch.full((o.batch,), 500)


def unet_forward(o):
    unet, x, context, t = load_unet(o, frozen_dtype(o))

    def once():
        with torch.no_grad():
            unet(x, t, context)

    return once


def unet_frozen(o):
    unet, x, context, t = load_unet(o, frozen_dtype(o))
    if o.gradient_checkpointing == "on":
        unet.train().enable_gradient_checkpointing()
    x.requires_grad_(True)
    context.requires_grad_(True)
    cotangent = torch.randn_like(x)

    def once():
        torch.autograd.grad(unet(x, t, context).sample, [x, context], cotangent)

    return once


def unet_full(o):
    unet, latents, context, t = load_unet(o)
    unet.train().requires_grad_(True)
    if o.gradient_checkpointing != "off":
        unet.enable_gradient_checkpointing()
    noise = channels_last(torch.randn_like(latents))
    return updates(o, unet, latents, noise, t, lambda: context, 1.0, list(unet.parameters()))


def updates(o, unet, latents, noise, t, context, factor, parameters):
    """A function that makes one update: factor * the mean loss, clipping, AdamW."""
    scheduler = diffusers.DDPMScheduler.from_pretrained(o.model, subfolder="scheduler")
    optimizer = torch.optim.AdamW(parameters, lr=5e-6, fused=True)

    def once():
        noisy = scheduler.add_noise(latents, noise, t)
        prediction = unet(noisy, t, context()).sample.float()
        loss = factor * torch.nn.functional.mse_loss(prediction, noise)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return once


def adapt(o, net, targets):
    """Attach LoRA of rank 16; returns its parameters, f32."""
    from peft import LoraConfig

    net.add_adapter(
        LoraConfig(r=16, lora_alpha=16, init_lora_weights="gaussian", target_modules=targets)
    )
    if o.gradient_checkpointing == "on":
        net.train()
        (getattr(net, "enable_gradient_checkpointing", None) or net.gradient_checkpointing_enable)()
    parameters = [p for p in net.parameters() if p.requires_grad]
    for p in parameters:
        p.data = p.data.float()
    return parameters


def lora_unet(o):
    unet, latents, context, t = load_unet(o, frozen_dtype(o))
    parameters = adapt(o, unet, ["to_k", "to_q", "to_v", "to_out.0"])
    return unet, latents, channels_last(torch.randn_like(latents)), context, t, parameters


def lora_step(o):
    unet, latents, noise, context, t, parameters = lora_unet(o)
    return updates(o, unet, latents, noise, t, lambda: context, 1.0, parameters)


def lora_prior_step(o):
    from transformers import CLIPTextModel

    unet, latents, noise, _, t, parameters = lora_unet(o)
    text = CLIPTextModel.from_pretrained(o.model, subfolder="text_encoder", dtype=frozen_dtype(o))
    text.requires_grad_(False)
    parameters += adapt(o, text, ["q_proj", "k_proj", "v_proj", "out_proj"])
    tokens = torch.arange(o.batch * TEXT_TOKENS).reshape(o.batch, -1) * 7 % text.config.vocab_size
    return updates(o, unet, latents, noise, t, lambda: text(tokens)[0], 2.0, parameters)


def vae_encode(o):
    vae = load(diffusers.AutoencoderKL, o.model, "vae", frozen_dtype(o)).eval()
    pixels = channels_last(torch.randn(o.batch, 3, o.px, o.px))

    def once():
        with torch.no_grad():
            vae.encode(pixels)

    return once


def vae_decode(o):
    vae = load(diffusers.AutoencoderKL, o.model, "vae", frozen_dtype(o)).eval()
    side = o.px // 2 ** (len(vae.config.block_out_channels) - 1)
    latent = channels_last(torch.randn(o.batch, vae.config.latent_channels, side, side))

    def once():
        with torch.no_grad():
            vae.decode(latent)

    return once


ROWS = {
    f.__name__: f
    for f in (
        unet_forward,
        unet_frozen,
        unet_full,
        lora_step,
        lora_prior_step,
        vae_encode,
        vae_decode,
    )
}


def main():
    o = parse()
    o.batch = o.batch or (2 if o.row in ("unet_full", "lora_prior_step") else 1)
    torch.set_num_threads(o.threads)
    torch.manual_seed(0)
    start = time.perf_counter()
    once = ROWS[o.row](o)
    opened = time.perf_counter() - start
    side = f"PyTorch {torch.__version__.split('+')[0]} + diffusers {diffusers.__version__}"
    with torch.autocast("cpu", torch.bfloat16, enabled=o.mixed_precision == "bf16"):
        bench_row.measure(o, side, opened, once)


if __name__ == "__main__":
    main()
