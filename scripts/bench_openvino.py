#!/usr/bin/env python3
"""OpenVINO's side of `make bench`: one row, one process, one line of JSON.

    bench_openvino.py --row unet_forward|vae_encode|vae_decode --model DIR [--px 512] [--batch B] [--threads N]
                      [--repeat 3] [--mixed_precision no|bf16]

The network that bench_peer.py runs, converted once by a process of its own (which wants torch and diffusers) and
kept beside the model as OpenVINO's own files, f32; shapes are fixed when it is loaded. The best of `repeat` after
one round to warm up; memory is the largest resident size of this process, which holds neither torch nor diffusers.
A row that OpenVINO cannot do prints nothing.
"""

import json
import os
import subprocess
import sys
import time

import bench_row

ROWS = ("unet_forward", "vae_encode", "vae_decode")
TEXT_TOKENS = 77
FACTOR = 8
EXAMPLE_PX = 64  # of the conversion


def parse():
    parser = bench_row.parser(__doc__.splitlines()[0])
    parser.add_argument("--convert", metavar="FILE.xml", help="only write the network there")
    return bench_row.parse(parser)


def inputs(o, px, batch):
    """What the network of a row is given, as arrays."""
    import numpy

    rng = numpy.random.default_rng(0)
    if o.row == "vae_encode":
        return (rng.standard_normal((batch, 3, px, px), numpy.float32),)
    part = "unet" if o.row == "unet_forward" else "vae"
    with open(f"{o.model}/{part}/config.json") as file:
        config = json.load(file)
    channels = config["in_channels" if part == "unet" else "latent_channels"]
    latents = rng.standard_normal((batch, channels, px // FACTOR, px // FACTOR), numpy.float32)
    if part == "vae":
        return (latents,)
    context = rng.standard_normal((batch, TEXT_TOKENS, config["cross_attention_dim"]), numpy.float32)
    return latents, numpy.full((batch,), 500, numpy.int64), context


def network(o):
    """The network of a row as a torch module."""
    import diffusers
    import torch

    class Unet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = diffusers.UNet2DConditionModel.from_pretrained(o.model, subfolder="unet").eval()

        def forward(self, x, t, context):
            return self.net(x, t, context, return_dict=False)[0]

    class Vae(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = diffusers.AutoencoderKL.from_pretrained(o.model, subfolder="vae").eval()

        def forward(self, x):
            if o.row == "vae_decode":
                return self.net.decode(x, return_dict=False)[0]
            return self.net.quant_conv(self.net.encoder(x))

    return Unet() if o.row == "unet_forward" else Vae()


def convert(o):
    import openvino
    import torch

    example = tuple(torch.from_numpy(x) for x in inputs(o, EXAMPLE_PX, 2))
    with torch.no_grad():
        model = openvino.convert_model(network(o), example_input=example)
    part = f"{o.convert.removesuffix('.xml')}.part"
    openvino.save_model(model, f"{part}.xml", compress_to_fp16=False)
    for kind in ("bin", "xml"):  # the .xml, which is looked for, last
        os.replace(f"{part}.{kind}", f"{o.convert.removesuffix('.xml')}.{kind}")


def main():
    o = parse()
    o.batch = o.batch or 1
    if o.row not in ROWS:
        return
    if o.convert:
        convert(o)
        return
    import openvino

    path = f"{o.model.rstrip('/')}-openvino/{o.row}.xml"
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--convert", path], check=True, stdout=sys.stderr)
    start = time.perf_counter()
    core = openvino.Core()
    hints = {
        "INFERENCE_NUM_THREADS": o.threads,
        "NUM_STREAMS": 1,
        "INFERENCE_PRECISION_HINT": "bf16" if o.mixed_precision == "bf16" else "f32",
    }
    model = core.read_model(path)
    given = inputs(o, o.px, o.batch)
    model.reshape({port: list(x.shape) for port, x in zip(model.inputs, given)})
    request = core.compile_model(model, "CPU", hints).create_infer_request()
    opened = time.perf_counter() - start
    side = f"OpenVINO {openvino.__version__.split('-')[0]}"
    bench_row.measure(o, side, opened, lambda: request.infer(given))


if __name__ == "__main__":
    main()
