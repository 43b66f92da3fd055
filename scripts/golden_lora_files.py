#!/usr/bin/env python3
"""Golden LoRA files of every dialect, and what they make of a small model.

    golden_lora_files.py OUTPUT_DIR

writes OUTPUT_DIR/lora_files/: files saved by diffusers and peft themselves, files of kohya's and LyCORIS' kinds
written here by hand, and expected.safetensors, which holds for each of them ("FILE/unet.NAME",
"FILE/text_encoder.NAME") every parameter that it changes, merged at the user's weight 0.75. The base is the U-Net "e"
and the text model "quick" of golden_networks.py with the fill rule of nn/init.h. Merging is computed in double: by
peft for what peft saved, by the formulas of each kind for the rest.
"""

import os
import shutil
import sys

import diffusers
import numpy as np
import peft
import torch
import transformers
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from diffusers.utils import convert_state_dict_to_diffusers
from peft import LoraConfig, get_peft_model, inject_adapter_in_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel

from golden_networks import CLIPS, ONE, fill, rule

USER = 0.75
UP = "up_blocks.0.attentions.0"
BLOCK = UP + ".transformer_blocks.0"
LAYER = "text_model.encoder.layers"


def unet():
    return fill(UNet2DConditionModel(**ONE))


def text():
    net = CLIPTextModel(CLIPTextConfig(max_position_embeddings=77, eos_token_id=2, **CLIPS["quick"][0]))
    named = next(iter(dict(net.named_parameters()))).startswith("text_model.")
    return fill(net, "" if named else "text_model.")


def published(name):
    """transformers 5 drops the outer word of the text model's names."""
    return name if name.startswith("text_model.") else "text_model." + name


BASE = {"unet." + n: p.detach().numpy().copy() for n, p in unet().named_parameters()}
BASE.update({"text_encoder." + published(n): p.detach().numpy().copy() for n, p in text().named_parameters()})


def values(name, *shape):
    """Values of the rule, as large as makes a visible change; exact in f32."""
    v = rule(name, int(np.prod(shape))) * 0.5
    return v.astype(np.float32).astype(np.float64).reshape(shape)


def tensors(arrays, dtype=torch.float32):
    return {n: torch.from_numpy(np.array(v)).to(dtype).contiguous() for n, v in arrays.items()}


# --- what peft and diffusers save -----------------------------------------------------------------


def fill_adapters(net, salt):
    with torch.no_grad():
        for name, p in net.named_parameters():
            if ".lora_" in name:
                p.copy_(torch.from_numpy(values(salt + name, *p.shape)))
                if "magnitude" in name:
                    p.abs_().add_(0.5)


def merged(expected, file, component, net):
    """Every weight that the network's adapters change, at the user's weight."""
    for name, module in net.named_modules():
        if not isinstance(module, peft.tuners.lora.LoraLayer):
            continue
        name = name.removeprefix("base_model.model.") + ".weight"
        name = component + "." + (published(name) if component == "text_encoder" else name)
        module.merge()
        got = module.get_base_layer().weight.detach().numpy().copy()
        module.unmerge()
        expected[f"{file}/{name}"] = BASE[name] + USER * (got - BASE[name])


ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
TEXT = ["q_proj", "k_proj", "v_proj", "out_proj"]


def by_diffusers(folder, expected, file, lora, text_lora, with_metadata):
    nets = {"unet": unet(), "text_encoder": text()}
    layers, metadata = {}, {}
    for (component, net), config in zip(nets.items(), (lora, text_lora)):
        inject_adapter_in_model(LoraConfig(**config), net)
        fill_adapters(net, file)
        merged(expected, file, component, net)
        net.float()
        layers[component] = convert_state_dict_to_diffusers(get_peft_model_state_dict(net))
        metadata[component] = LoraConfig(**config).to_dict() if with_metadata else None
    StableDiffusionPipeline.save_lora_weights(
        folder,
        unet_lora_layers=layers["unet"],
        text_encoder_lora_layers=layers["text_encoder"],
        weight_name=file,
        unet_lora_adapter_metadata=metadata["unet"],
        text_encoder_lora_adapter_metadata=metadata["text_encoder"],
    )


def by_peft(folder, expected, file, component, config):
    net = get_peft_model(unet() if component == "unet" else text(), LoraConfig(**config))
    fill_adapters(net, file)
    merged(expected, file, component, net)
    net.float()
    net.save_pretrained(os.path.join(folder, file))
    os.remove(os.path.join(folder, file, "README.md"))


def old_names(folder, expected):
    """What diffusers wrote before it used peft: a torch file, the U-Net's names without a prefix."""
    file, out = "old.bin", {}
    for at, old in (("attn1.to_q", "attn1.processor.to_q_lora"), ("attn2.to_out.0", "attn2.processor.to_out_lora")):
        name = f"unet.{BLOCK}.{at}.weight"
        down, up = values(file + at, 2, BASE[name].shape[1]), values(at, BASE[name].shape[0], 2)
        out[f"{BLOCK}.{old}.down.weight"], out[f"{BLOCK}.{old}.up.weight"] = down, up
        expected[f"{file}/{name}"] = BASE[name] + USER * (up @ down)
    for at, old in (("q_proj", "to_q_lora"), ("out_proj", "to_out_lora")):
        name = f"text_encoder.{LAYER}.1.self_attn.{at}.weight"
        down, up = values(file + at, 3, 32), values(at, 32, 3)
        key = f"text_encoder.{LAYER}.1.self_attn.{old}"
        out[key + ".down.weight"], out[key + ".up.weight"] = down, up
        expected[f"{file}/{name}"] = BASE[name] + USER * (up @ down)
    torch.save(tensors(out), os.path.join(folder, file))


# --- kohya's and LyCORIS' kinds ----------------------------------------------------------------------


class Kohya:
    """A file in the making: tensors under kohya's names, and what they change."""

    def __init__(self, expected, file):
        self.expected, self.file, self.out = expected, file, {}

    def put(self, path, **parts):
        for ending, value in parts.items():
            self.out[f"{path}.{ending.replace('__', '.')}"] = value

    def change(self, name, delta):
        self.expected[f"{self.file}/{name}"] = BASE[name] + USER * delta.reshape(BASE[name].shape)

    def make(self, tag, *shape):
        return values(f"{self.file}.{tag}", *shape)

    def lora(self, path, name, rank, alpha=None, square=False):
        """A pair of factors; square: a 1x1 convolution's are stored without their last axes."""
        w = BASE[name]
        down = self.make(path + "d", rank, *(w.shape[1:2] if square else w.shape[1:]))
        up = self.make(path + "u", w.shape[0], rank, *([1] * (0 if square else w.ndim - 2)))
        self.put(path, lora_down__weight=down, lora_up__weight=up)
        if alpha is not None:
            self.put(path, alpha=np.array(float(alpha)))
        delta = up.reshape(w.shape[0], rank) @ down.reshape(rank, -1) * ((alpha or rank) / rank)
        return delta.reshape(w.shape)

    def save(self, folder, dtype=torch.float32, **metadata):
        save_file(tensors(self.out, dtype), os.path.join(folder, self.file), metadata=metadata or None)


def plain_kohya(folder, expected):
    k = Kohya(expected, "kohya.safetensors")
    flat = "lora_unet_" + BLOCK.replace(".", "_")
    text_flat = "lora_te_text_model_encoder_layers_"
    for path, name, rank, alpha, square in (
        (flat + "_attn1_to_q", f"unet.{BLOCK}.attn1.to_q.weight", 4, 1, False),
        (flat + "_ff_net_0_proj", f"unet.{BLOCK}.ff.net.0.proj.weight", 2, 0, False),
        (f"lora_unet_{UP.replace('.', '_')}_proj_in", f"unet.{UP}.proj_in.weight", 3, 6, False),
        (f"lora_unet_{UP.replace('.', '_')}_proj_out", f"unet.{UP}.proj_out.weight", 3, 1.5, True),
        ("lora_unet_down_blocks_0_resnets_1_conv1", "unet.down_blocks.0.resnets.1.conv1.weight", 2, 3, False),
        ("lora_unet_up_blocks_0_resnets_0_time_emb_proj", "unet.up_blocks.0.resnets.0.time_emb_proj.weight", 2, 2,
         False),
        (text_flat + "0_self_attn_q_proj", f"text_encoder.{LAYER}.0.self_attn.q_proj.weight", 4, 2, False),
        (text_flat + "3_mlp_fc2", f"text_encoder.{LAYER}.3.mlp.fc2.weight", 1, 5, False),
    ):
        k.change(name, k.lora(path, name, rank, alpha, square))
    k.save(folder, ss_network_dim="4", ss_network_alpha="1", ss_network_module="networks.lora",
           ss_base_model_version="sd_v1", ss_v2="False")


def ldm_names(folder, expected):
    """The names of single-file checkpoints, half precision, and no alpha."""
    k = Kohya(expected, "kohya_ldm.safetensors")
    for path, name in (
        ("lora_unet_output_blocks_0_1_transformer_blocks_0_attn2_to_k", f"unet.{BLOCK}.attn2.to_k.weight"),
        ("lora_unet_input_blocks_2_0_in_layers_2", "unet.down_blocks.0.resnets.1.conv1.weight"),
        ("lora_unet_middle_block_0_emb_layers_1", "unet.mid_block.resnets.0.time_emb_proj.weight"),
        ("lora_unet_output_blocks_1_0_skip_connection", "unet.up_blocks.0.resnets.1.conv_shortcut.weight"),
        ("lora_te_encoder_layers_2_self_attn_v_proj", f"text_encoder.{LAYER}.2.self_attn.v_proj.weight"),
    ):
        w = BASE[name]
        down = k.make(path + "d", 2, *w.shape[1:]).astype(np.float16).astype(np.float64)
        up = k.make(path + "u", w.shape[0], 2, *([1] * (w.ndim - 2))).astype(np.float16).astype(np.float64)
        k.put(path, lora_down__weight=down, lora_up__weight=up)
        k.change(name, up.reshape(-1, 2) @ down.reshape(2, -1))
    k.save(folder, torch.float16)


def decomposed(w, magnitude, axis):
    """DoRA's weight: magnitude along `axis` of w, norms over all the others."""
    others = tuple(d for d in range(w.ndim) if d != axis)
    return w * (magnitude / np.sqrt((w * w).sum(axis=others, keepdims=True)))


def lycoris(folder, expected):
    k = Kohya(expected, "lycoris.safetensors")
    base = "lora_unet_" + BLOCK.replace(".", "_")

    # DoRA by outputs, and by inputs
    name = f"unet.{BLOCK}.attn1.to_v.weight"
    delta = k.lora(base + "_attn1_to_v", name, 3, 2)
    m = np.abs(k.make("m", 12, 1)) + 0.5
    k.put(base + "_attn1_to_v", dora_scale=m)
    k.change(name, decomposed(BASE[name] + delta, m, 0) - BASE[name])
    name = "unet.up_blocks.0.resnets.1.conv2.weight"
    delta = k.lora("lora_unet_up_blocks_0_resnets_1_conv2", name, 2, 1)
    m = np.abs(k.make("n", 1, 12, 1, 1)) + 0.5
    k.put("lora_unet_up_blocks_0_resnets_1_conv2", dora_scale=m)
    k.change(name, decomposed(BASE[name] + delta, m, 1) - BASE[name])

    # LoCon with a middle
    path, name = "lora_unet_mid_block_resnets_0_conv1", "unet.mid_block.resnets.0.conv1.weight"
    down, mid, up = k.make("ld", 3, 12, 1, 1), k.make("lm", 3, 3, 3, 3), k.make("lu", 12, 3, 1, 1)
    k.put(path, lora_down__weight=down, lora_mid__weight=mid, lora_up__weight=up, alpha=np.array(2.0))
    k.change(name, np.einsum("op,pqyx,qi->oiyx", up[..., 0, 0], mid, down[..., 0, 0]) * (2 / 3))

    # LoHa: linear, convolution, convolution with cores
    path, name = base + "_attn1_to_k", f"unet.{BLOCK}.attn1.to_k.weight"
    a, b, c, d = k.make("ha", 12, 2), k.make("hb", 2, 12), k.make("hc", 12, 2), k.make("hd", 2, 12)
    k.put(path, hada_w1_a=a, hada_w1_b=b, hada_w2_a=c, hada_w2_b=d, alpha=np.array(1.0))
    k.change(name, (a @ b) * (c @ d) / 2)
    path, name = "lora_unet_mid_block_resnets_0_conv2", "unet.mid_block.resnets.0.conv2.weight"
    a, b, c, d = k.make("ia", 12, 2), k.make("ib", 2, 108), k.make("ic", 12, 2), k.make("id", 2, 108)
    k.put(path, hada_w1_a=a, hada_w1_b=b, hada_w2_a=c, hada_w2_b=d, alpha=np.array(4.0))
    k.change(name, (a @ b) * (c @ d) * 2)
    path, name = "lora_unet_down_blocks_0_resnets_0_conv1", "unet.down_blocks.0.resnets.0.conv1.weight"
    t1, t2 = k.make("t1", 2, 2, 3, 3), k.make("t2", 2, 2, 3, 3)
    a, b, c, d = k.make("ja", 2, 12), k.make("jb", 2, 12), k.make("jc", 2, 12), k.make("jd", 2, 12)
    k.put(path, hada_t1=t1, hada_w1_a=a, hada_w1_b=b, hada_t2=t2, hada_w2_a=c, hada_w2_b=d, alpha=np.array(1.0))
    core = "ijkl,jr,ip->prkl"
    k.change(name, np.einsum(core, t1, b, a) * np.einsum(core, t2, d, c) / 2)

    # LoKr: both whole, one factored, a convolution, with a core
    path, name = base + "_attn2_to_q", f"unet.{BLOCK}.attn2.to_q.weight"
    w1, w2 = k.make("ka", 3, 4), k.make("kb", 4, 3)
    k.put(path, lokr_w1=w1, lokr_w2=w2, alpha=np.array(7.0))
    k.change(name, np.kron(w1, w2))
    path, name = base + "_ff_net_2", f"unet.{BLOCK}.ff.net.2.weight"  # [12, 48]
    w1, a, b = k.make("la", 2, 6), k.make("lb", 6, 2), k.make("lc", 2, 8)
    k.put(path, lokr_w1=w1, lokr_w2_a=a, lokr_w2_b=b, alpha=np.array(1.0))
    k.change(name, np.kron(w1, a @ b) / 2)
    path, name = "lora_unet_up_blocks_0_resnets_2_conv2", "unet.up_blocks.0.resnets.2.conv2.weight"
    a, b, w2 = k.make("ma", 3, 2), k.make("mb", 2, 2), k.make("mc", 4, 6, 3, 3)
    k.put(path, lokr_w1_a=a, lokr_w1_b=b, lokr_w2=w2, alpha=np.array(3.0))
    k.change(name, np.einsum("ab,cdyx->acbdyx", a @ b, w2) * 1.5)
    path, name = "lora_unet_up_blocks_0_resnets_3_conv2", "unet.up_blocks.0.resnets.3.conv2.weight"
    w1, a, b, t = k.make("na", 2, 3), k.make("nb", 2, 6), k.make("nc", 2, 4), k.make("nd", 2, 2, 3, 3)
    k.put(path, lokr_w1=w1, lokr_w2_a=a, lokr_w2_b=b, lokr_t2=t, alpha=np.array(1.0))
    k.change(name, np.einsum("ab,cdyx->acbdyx", w1, np.einsum(core, t, b, a)) / 2)

    # whole differences
    name = f"text_encoder.{LAYER}.4.mlp.fc1"
    k.put("lora_te_text_model_encoder_layers_4_mlp_fc1", diff=k.make("oa", 37, 32), diff_b=k.make("ob", 37))
    k.change(name + ".weight", k.make("oa", 37, 32))
    k.change(name + ".bias", k.make("ob", 37))
    k.put("lora_unet_conv_norm_out", diff=k.make("pa", 12))
    k.change("unet.conv_norm_out.weight", k.make("pa", 12))
    k.save(folder, ss_network_module="lycoris.kohya")


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__.split("\n\n")[1].strip())
    folder = os.path.join(sys.argv[1], "lora_files")
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    expected = {}
    by_diffusers(folder, expected, "diffusers.safetensors", dict(r=4, target_modules=ATTENTION, lora_alpha=4),
                 dict(r=3, target_modules=TEXT, lora_alpha=3), False)
    by_diffusers(folder, expected, "diffusers_alpha.safetensors",
                 dict(r=2, lora_alpha=5, target_modules=["attn1.to_q", "proj_in", "ff.net.2", "mid_block.resnets.0.conv1"],
                      rank_pattern={"proj_in": 3}, alpha_pattern={"proj_in": 1}),
                 dict(r=2, lora_alpha=1, target_modules=["layers.1.self_attn.q_proj", "layers.2.mlp.fc1"], use_rslora=True), True)
    by_diffusers(folder, expected, "diffusers_dora.safetensors",
                 dict(r=2, lora_alpha=2, use_dora=True, target_modules=["to_q", "to_out.0", "resnets.1.conv_shortcut"]),
                 dict(r=2, lora_alpha=2, use_dora=True, target_modules=["layers.0.self_attn.v_proj"]), False)
    by_peft(folder, expected, "peft_unet", "unet",
            dict(r=2, lora_alpha=3, use_rslora=True, target_modules=["to_v", "mid_block.resnets.1.conv2", "attn2.to_k"],
                 rank_pattern={"attn2.to_k": 4}, alpha_pattern={"attn2.to_k": 1}))
    by_peft(folder, expected, "peft_dora", "unet",
            dict(r=3, lora_alpha=2, use_dora=True, target_modules=["attn2.to_q", "up_blocks.0.resnets.0.conv1", "proj_out"]))
    by_peft(folder, expected, "peft_text", "text_encoder", dict(r=2, lora_alpha=8, target_modules=["layers.4.self_attn." + n for n in TEXT]))
    old_names(folder, expected)
    plain_kohya(folder, expected)
    ldm_names(folder, expected)
    lycoris(folder, expected)
    versions = dict(diffusers=diffusers.__version__, peft=peft.__version__, torch=torch.__version__,
                    transformers=transformers.__version__, user_weight=str(USER))
    save_file(tensors(expected), os.path.join(folder, "expected.safetensors"), metadata=versions)
    size = sum(os.path.getsize(os.path.join(d, f)) for d, _, files in os.walk(folder) for f in files)
    print(folder, len(expected), "parameters,", size, "bytes")


if __name__ == "__main__":
    main()
