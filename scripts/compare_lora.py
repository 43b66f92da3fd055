#!/usr/bin/env python3
"""Open LoRA files that agewright wrote with diffusers and peft, and compare.

usage: compare_lora.py AGEWRIGHT MODEL_DIR LORA.safetensors [--seed N]

Rewrites the LoRA in every dialect (`AGEWRIGHT lora convert`) and loads each: diffusers' and kohya's by
StableDiffusionPipeline.load_lora_weights, PEFT's by peft itself. Then one text encoding and one U-Net pass on random
inputs are compared with `AGEWRIGHT probe ... --lora`, and the largest difference of each is printed relative to the
largest value, beside how much the LoRA changes. Exit status 1 when one exceeds 1e-4. A dialect that cannot hold the
file, or that diffusers is known not to read (DoRA in kohya's), is skipped with a line. (Nor does diffusers 0.42 read
alphas that differ among a kohya file's modules of the text encoder.) Needs torch, diffusers, transformers, peft and
safetensors.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile

import torch
from diffusers import StableDiffusionPipeline
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file


def open_pipeline(path):
    return StableDiffusionPipeline.from_pretrained(path, safety_checker=None, torch_dtype=torch.float32)


def load_by_peft(pipe, path):
    """What lies under a component's prefix into that component, by the configuration in the header."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["lora_adapter_metadata"])
    tensors = load_file(path)
    for name, net in (("unet", pipe.unet), ("text_encoder", pipe.text_encoder)):
        part = {k.removeprefix(name + "."): v for k, v in config.items() if k.startswith(name + ".")}
        if not part:
            continue
        state = {k.removeprefix(name + "."): v for k, v in tensors.items() if k.startswith(name + ".")}
        if not hasattr(net, "text_model"):  # transformers 5 drops the outer word
            state = {k.removeprefix("text_model."): v for k, v in state.items()}
        inject_adapter_in_model(LoraConfig(**part), net)
        result = set_peft_model_state_dict(net, state)
        assert not result.unexpected_keys, result.unexpected_keys


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("agewright")
    parser.add_argument("model")
    parser.add_argument("lora")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    tmp = tempfile.mkdtemp()
    worst = 0.0

    def probe(part, inputs, *more):
        source, target = os.path.join(tmp, "in.safetensors"), os.path.join(tmp, "out.safetensors")
        save_file(inputs, source)
        subprocess.run([args.agewright, "probe", part, "--model", args.model, "--in", source, "--out", target, *more],
                       check=True)
        return load_file(target)

    bare = open_pipeline(args.model)
    side = bare.unet.config.sample_size
    ids = bare.tokenizer(["photo of a 70 year old person", ""], padding="max_length", truncation=True,
                         return_tensors="pt").input_ids
    with torch.no_grad():
        context = bare.text_encoder(ids)[0]
        x, t = torch.randn(2, 4, side, side), torch.tensor([10, 700])
        plain = {"text_encoder": context, "unet": bare.unet(x, t, context).sample}
    ours = {"text_encoder": ("last_hidden_state", {"input_ids": ids}),
            "unet": ("sample", {"sample": x, "timestep": t, "encoder_hidden_states": context})}
    with safe_open(args.lora, "pt") as file:
        parts = {c for c in ours for k in file.keys()
                 if k.startswith((c + ".", {"unet": "lora_unet_", "text_encoder": "lora_te"}[c]))}
        dora = any("magnitude" in k or "dora" in k for k in file.keys())
    for dialect in ("diffusers", "peft", "kohya"):
        path = os.path.join(tmp, dialect + ".safetensors")
        done = subprocess.run([args.agewright, "lora", "convert", "--input", args.lora, "--output", path, "--to",
                               dialect, "--model", args.model], capture_output=True, text=True)
        if done.returncode or (dora and dialect == "kohya"):
            print(f"{dialect:10} skipped: {done.stderr.strip() or 'diffusers does not read DoRA under these names'}")
            continue
        pipe = open_pipeline(args.model)
        if dialect == "peft":
            load_by_peft(pipe, path)
        else:
            pipe.load_lora_weights(path, low_cpu_mem_usage=False)  # the other way fails for DoRA
        with torch.no_grad():
            want = {"text_encoder": pipe.text_encoder(ids)[0], "unet": pipe.unet(x, t, context).sample}
        for part in sorted(parts):
            output, inputs = ours[part]
            got = probe(part, inputs, "--lora", path)[output]
            error = ((got - want[part]).abs().max() / want[part].abs().max()).item()
            change = ((want[part] - plain[part]).abs().max() / plain[part].abs().max()).item()
            worst = max(worst, error)
            print(f"{dialect:10} {part:12} relative error {error:.2e}   the LoRA changes it by {change:.2e}")
    sys.exit(worst > 1e-4)


if __name__ == "__main__":
    main()
