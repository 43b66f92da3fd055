#!/usr/bin/env python3
"""Make tests/golden/weights/: small weight files as PyTorch and safetensors write them.

usage: golden_weights.py OUTPUT_DIR

NAME.safetensors or NAME.pt is a file to read, NAME.want lists what must be found in it: one line a
tensor, its name, dtype as safetensors spells it, dimensions, and the row-major bytes in hexadecimal,
tab between each. Written with PyTorch 2 and safetensors 0.5 or later; nothing is random.
"""
import argparse
import collections
import json
import os
import sys
import types
import zipfile

import torch
from safetensors.torch import save_file

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.bool: "BOOL",
}


def values(shape, dtype):
    """Values that differ everywhere, are exact in every dtype, and cover both signs."""
    n = int(torch.tensor(shape).prod()) if shape else 1
    x = torch.arange(n) - n // 3
    if dtype == torch.bool:
        return (x % 3 == 0).reshape(shape)
    if dtype == torch.uint8:
        return (x + n // 3).to(dtype).reshape(shape)
    if dtype.is_floating_point:
        return (x.double() / 4).to(dtype).reshape(shape)
    return x.to(dtype).reshape(shape)


def write_want(path, tensors):
    with open(path, "w", encoding="utf-8") as f:
        for name, t in tensors.items():
            raw = t.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b""
            f.write("\t".join([name, NAMES[t.dtype], ",".join(map(str, t.shape)), raw.hex()]) + "\n")


def tensors_of(d):
    """What the reader is to find in a dictionary: the rules of data/weights.h."""
    found = collections.OrderedDict()
    inner = d.get("state_dict")
    if isinstance(inner, dict):
        found.update(tensors_of(inner))
    for key, v in d.items():
        if not isinstance(key, str):
            continue
        if isinstance(v, torch.Tensor) and v.dtype in NAMES:
            found[key] = v
        elif isinstance(v, dict) and not isinstance(inner, dict):
            found.update((key + "." + k, t) for k, t in tensors_of(v).items())
    return found


class Callback:
    """Something that is no tensor, from a module that a reader does not know."""

    def __init__(self):
        self.best = torch.ones(2)
        self.names = {"a", "b"}

    def __reduce__(self):
        return (Callback, (), {"best": self.best, "names": ["a", "b"]})


def make_module():
    module = types.ModuleType("trainer.callbacks")
    Callback.__module__ = "trainer.callbacks"
    module.Callback = Callback
    sys.modules["trainer"] = types.ModuleType("trainer")
    sys.modules["trainer.callbacks"] = module


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    out = sys.argv[1]
    os.makedirs(out, exist_ok=True)

    def save(name, d):
        torch.save(d, os.path.join(out, name + ".pt"))
        write_want(os.path.join(out, name + ".want"), tensors_of(d))

    # safetensors: every dtype we read, two that we only list, no values, no axes, a long name
    every = {f"values.{NAMES[t]}": values((3, 5), t) for t in NAMES}
    every.update({"no axes": torch.tensor(2.5), "no values": torch.zeros(3, 0, 2),
                  "größe \"π\"\\": values((7,), torch.int8), "n" * 200: values((2,), torch.float16)})
    others = {"fp8": torch.ones(3).to(torch.float8_e4m3fn), "u16": torch.ones(3, dtype=torch.uint16)}
    save_file({**every, **others}, os.path.join(out, "dtypes.safetensors"),
              metadata={"format": "pt", "note": "größe \"quoted\"\n", "empty": ""})
    write_want(os.path.join(out, "dtypes.want"), every)

    # torch: every dtype
    save("dtypes_torch", {**every, "none": None, "text": "x" * 300, "int": 1 << 40, "long": 1 << 80, "real": 0.5,
                          "tuple": (1, 2, 3, 4), "list": [torch.ones(1)], "true": True})
    # torch: views and shared storages
    base, cube = values((6, 8), torch.float32), values((3, 4, 5), torch.int16)
    half = values((4, 6), torch.float16)
    save("views", collections.OrderedDict([
        ("base", base), ("same", base), ("transposed", base.t()), ("rows", base[2:5]), ("columns", base[:, 3:5]),
        ("every second", base[1::2, ::3]), ("one", base[4, 6]), ("permuted", cube.permute(2, 0, 1)),
        ("plane", cube[:, 2, :]), ("expanded", half[1:2, :].expand(3, 6)), ("column", half[:, 5:6]),
        ("diagonal", base.diagonal()), ("no values", base[3:3]), ("window", base.as_strided((3, 3), (2, 1), 5)),
        ("parameter", torch.nn.Parameter(half[1:].clone())), ("frozen", torch.nn.Parameter(cube.float(), requires_grad=False)),
    ]))
    # torch: what training programs write
    make_module()
    model = collections.OrderedDict([("a.weight", values((2, 3), torch.float32)), ("a.bias", values((2,), torch.bfloat16))])
    model._metadata = collections.OrderedDict([("", {"version": 1})])
    save("lightning", {
        "state_dict": {"state_dict": model, "step": torch.tensor(7)}, "epoch": 3, "global_step": 470000,
        "pytorch-lightning_version": "1.4.2", "callbacks": {Callback: {"best": torch.ones(3)}, "x": Callback()},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2, 3)}}, "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999)}]}],
        "hyper_parameters": argparse.Namespace(lr=0.1, path="p", counts=collections.Counter("abc")),
        "lr_schedulers": [collections.defaultdict(list, {"a": [1, 2]})], "latent_avg": values((3,), torch.float64),
        "bytes": b"\x00\xff", "set": {1, 2}, "complex": 1j, "device": torch.device("cpu"), "dtype": torch.float16,
        "size": torch.Size([1, 2]), "complex tensor": torch.zeros(2, dtype=torch.complex64),
    })
    save("nested", {"g_ema": {"conv.weight": values((2, 2), torch.float32), "deep": {"x": values((1,), torch.int32)}},
                    "latent_avg": values((4,), torch.float32), "iteration": 5, 6: torch.ones(1)})

    # shards, as the hub's libraries cut a large file
    shards = os.path.join(out, "shards")
    os.makedirs(shards, exist_ok=True)
    first = {"a": values((2, 3), torch.float32), "b": values((4,), torch.float16)}
    second = {"c": values((5,), torch.float32)}
    weight_map = {}
    for i, part in enumerate((first, second), 1):
        name = f"diffusion_pytorch_model-{i:05d}-of-00002.safetensors"
        save_file(part, os.path.join(shards, name), metadata={"format": "pt"})
        weight_map.update({k: name for k in part})
    with open(os.path.join(shards, "diffusion_pytorch_model.safetensors.index.json"), "w") as f:
        json.dump({"metadata": {"total_size": 52}, "weight_map": weight_map}, f, indent=2, sort_keys=True)
    write_want(os.path.join(out, "shards.want"), {**first, **second})

    # the same archive packed by another program: no descriptors, local headers complete
    with zipfile.ZipFile(os.path.join(out, "views.pt")) as old, \
            zipfile.ZipFile(os.path.join(out, "repacked.pt"), "w", zipfile.ZIP_STORED) as new:
        for info in old.infolist():
            new.writestr(zipfile.ZipInfo(info.filename), old.read(info))


if __name__ == "__main__":
    main()
