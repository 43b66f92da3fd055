#!/usr/bin/env python3
"""Open a model folder that agewright wrote with diffusers, and compare.

usage: compare_diffusers.py AGEWRIGHT MODEL_DIR [--seed N]

Runs one text encoding, one U-Net pass, one VAE encode and one decode of the model on random inputs,
with StableDiffusionPipeline and with `AGEWRIGHT probe`, and prints the largest difference of each
relative to the largest value. Exit status 1 when one exceeds 1e-4. Needs torch, diffusers,
transformers and safetensors.
"""
import argparse
import os
import subprocess
import sys
import tempfile

import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agewright")
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    pipe = StableDiffusionPipeline.from_pretrained(args.model, safety_checker=None, torch_dtype=torch.float32)
    side = pipe.unet.config.sample_size
    pixels = side * 2 ** (len(pipe.vae.config.block_out_channels) - 1)
    worst = 0.0

    def probe(part, inputs):
        with tempfile.TemporaryDirectory() as tmp:
            source, target = os.path.join(tmp, "in.safetensors"), os.path.join(tmp, "out.safetensors")
            save_file(inputs, source)
            subprocess.run([args.agewright, "probe", part, "--model", args.model, "--in", source, "--out", target],
                           check=True)
            return load_file(target)

    def compare(name, got, want):
        nonlocal worst
        error = ((got - want).abs().max() / want.abs().max()).item()
        worst = max(worst, error)
        print(f"{name:12} {tuple(want.shape)!s:22} relative error {error:.2e}")

    with torch.no_grad():
        ids = pipe.tokenizer(["photo of a 70 year old person", ""], padding="max_length", truncation=True,
                             return_tensors="pt").input_ids
        text = pipe.text_encoder(ids)[0]
        compare("text", probe("text_encoder", {"input_ids": ids})["last_hidden_state"], text)
        x, t = torch.randn(2, 4, side, side), torch.tensor([10, 700])
        y = pipe.unet(x, t, text).sample
        compare("unet", probe("unet", {"sample": x, "timestep": t, "encoder_hidden_states": text})["sample"], y)
        image = torch.rand(1, 3, pixels, pixels) * 2 - 1
        posterior = pipe.vae.encode(image).latent_dist
        out = probe("vae_encode", {"pixels": image})
        compare("vae mean", out["mean"], posterior.mean)
        compare("vae logvar", out["logvar"], posterior.logvar)
        z = torch.randn(1, 4, side, side)
        compare("vae decode", probe("vae_decode", {"latent": z})["pixels"], pipe.vae.decode(z).sample)
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
