"""Write the names of single-file checkpoints beside the published ones, as diffusers maps them.

usage: golden_single_file.py OUT.txt

Every tensor of a made-up checkpoint holds its own number, so the converted dictionary tells which
entry each published name came from. One line per pair: case, component, name in the file,
published name, part (0..2 for OpenCLIP's q, k, v, else 0) and number of parts.
"""
import sys
import warnings

warnings.filterwarnings("ignore")
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders import single_file_utils as convert

CROSS, PLAIN = "CrossAttnDownBlock2D", "DownBlock2D"
CASES = {
    "sd1": dict(blocks=(True, True, True, False), layers=2),
    "three": dict(blocks=(False, True, True), layers=1),
    "two": dict(blocks=(False, True), layers=3),
}
RESNET = ["in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection"]
ATTENTION = ["norm", "proj_in", "proj_out"] + [
    f"transformer_blocks.0.{n}" for n in
    ["norm1", "norm2", "norm3", "ff.net.0.proj", "ff.net.2"]
    + [f"attn{a}.{n}" for a in (1, 2) for n in ("to_q", "to_k", "to_v", "to_out.0")]]


def unet_names(blocks, layers):
    """Every name such a U-Net may have in the original layout."""
    n, per = len(blocks), layers + 1
    yield from ("time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2")
    for i in range(n):
        for j in range(layers):
            yield from (f"input_blocks.{i * per + j + 1}.0.{x}" for x in RESNET)
            if blocks[i]:
                yield from (f"input_blocks.{i * per + j + 1}.1.{x}" for x in ATTENTION)
        if i < n - 1:
            yield f"input_blocks.{(i + 1) * per}.0.op"
        for j in range(per):
            yield from (f"output_blocks.{i * per + j}.0.{x}" for x in RESNET)
            if blocks[n - 1 - i]:
                yield from (f"output_blocks.{i * per + j}.1.{x}" for x in ATTENTION)
        if i < n - 1:
            yield f"output_blocks.{(i + 1) * per - 1}.{2 if blocks[n - 1 - i] else 1}.conv"
    for slot in (0, 2):
        yield from (f"middle_block.{slot}.{x}" for x in RESNET)
    yield from (f"middle_block.1.{x}" for x in ATTENTION)


def vae_names(levels, layers):
    resnet = ["norm1", "conv1", "norm2", "conv2", "nin_shortcut"]
    yield from ("quant_conv", "post_quant_conv")
    for side, block, extra in (("encoder", "down", 0), ("decoder", "up", 1)):
        yield from (f"{side}.{x}" for x in ("conv_in", "conv_out", "norm_out"))
        for i in range(levels):
            for j in range(layers + extra):
                yield from (f"{side}.{block}.{i}.block.{j}.{x}" for x in resnet)
            yield f"{side}.{block}.{i}.{block}sample.conv"
        for i in (1, 2):
            yield from (f"{side}.mid.block_{i}.{x}" for x in resnet)
        yield from (f"{side}.mid.attn_1.{x}" for x in ("norm", "q", "k", "v", "proj_out"))


def checkpoint(prefix, names):
    full = [prefix + n + end for n in names for end in (".weight", ".bias")]
    return full, {name: torch.full((1, 1, 1, 1), float(i)) for i, name in enumerate(full)}


def write(out, case, component, full, converted, wanted):
    for name in sorted(wanted):
        original = full[int(converted[name].flatten()[0])]
        out.write(f"{case}\t{component}\t{original}\t{name}\t0\t1\n")


def open_clip(out):
    """Two layers of OpenCLIP's names, width 4."""
    class Text:
        class config:
            hidden_size = 4

    names = ["positional_embedding", "token_embedding.weight", "ln_final.weight", "ln_final.bias"]
    for i in range(2):
        r = f"transformer.resblocks.{i}."
        names += [r + f"{n}.{end}" for n in ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj")
                  for end in ("weight", "bias")]
        names += [r + "attn.in_proj_weight", r + "attn.in_proj_bias"]
    full = ["cond_stage_model.model." + n for n in names]
    tensors = {}
    for i, name in enumerate(full):
        rows = 12 if "in_proj" in name else 4
        tensors[name] = i * 10 + (torch.arange(rows) // 4).float()[:, None].repeat(1, 4)
        if name.endswith("bias"):
            tensors[name] = tensors[name][:, 0]
    converted = convert.convert_open_clip_checkpoint(Text, tensors)
    for name in sorted(converted):
        if name.endswith("position_ids"):
            continue
        value = int(converted[name].flatten()[0])
        original = full[value // 10]
        parts = 3 if "in_proj" in original else 1
        out.write(f"clip\ttext_encoder\t{original}\t{name}\t{value % 10}\t{parts}\n")


def main(path):
    with open(path, "w") as out:
        for case, c in CASES.items():
            blocks, layers = c["blocks"], c["layers"]
            channels = (32, 64, 96, 96)[:len(blocks)]
            with torch.device("meta"):
                unet = UNet2DConditionModel(
                    block_out_channels=channels, layers_per_block=layers, cross_attention_dim=16,
                    down_block_types=[CROSS if b else PLAIN for b in blocks],
                    up_block_types=["CrossAttnUpBlock2D" if b else "UpBlock2D" for b in blocks[::-1]])
                vae = AutoencoderKL(
                    block_out_channels=channels, layers_per_block=layers,
                    down_block_types=["DownEncoderBlock2D"] * len(blocks),
                    up_block_types=["UpDecoderBlock2D"] * len(blocks))
            full, tensors = checkpoint("model.diffusion_model.", unet_names(blocks, layers))
            converted = convert.convert_ldm_unet_checkpoint(tensors, dict(unet.config))
            write(out, case, "unet", full, converted, unet.state_dict())
            full, tensors = checkpoint("first_stage_model.", vae_names(len(blocks), layers))
            converted = convert.convert_ldm_vae_checkpoint(tensors, dict(vae.config))
            write(out, case, "vae", full, converted, vae.state_dict())
        open_clip(out)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
