#!/usr/bin/env python3
"""OpenVINO's side of `make bench`: one row, one process, one line of JSON.

    bench_openvino.py --row unet_forward|vae_encode|vae_decode --model DIR [--px 512] [--batch B] [--threads N]
                      [--repeat 3] [--mixed_precision no|bf16]

The network that bench_peer.py runs, converted once by a process of its own (which wants torch and diffusers) and
kept beside the model as OpenVINO's own files, f32, of fixed shapes. The best of `repeat` after one round to warm
up; memory is the largest resident size of this process, which holds neither torch nor diffusers. A row that
OpenVINO cannot do prints nothing.
"""

import os
import subprocess
import sys
import time

import bench_row

ROWS = ("unet_forward", "vae_encode", "vae_decode")
TEXT_TOKENS = 77
FACTOR = 8


def parse():
    parser = bench_row.parser(__doc__.splitlines()[0])
    parser.add_argument("--convert", metavar="FILE.xml", help="only write the network there")
    return bench_row.parse(parser)


def network(o):
    """The network of a row as a torch module, and inputs for it."""
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

    side = o.px // FACTOR
    if o.row == "unet_forward":
        net = Unet()
        c = net.net.config
        return net, (
            torch.randn(o.batch, c.in_channels, side, side),
            torch.full((o.batch,), 500),
            torch.randn(o.batch, TEXT_TOKENS, c.cross_attention_dim),
        )
    if o.row == "vae_decode":
        return Vae(), (torch.randn(o.batch, 4, side, side),)
    return Vae(), (torch.randn(o.batch, 3, o.px, o.px),)


def convert(o):
    import openvino
    import torch

    net, inputs = network(o)
    with torch.no_grad():
        model = openvino.convert_model(net, example_input=inputs)
    model.reshape({port: list(x.shape) for port, x in zip(model.inputs, inputs)})
    openvino.save_model(model, o.convert, compress_to_fp16=False)


def main():
    o = parse()
    o.batch = o.batch or 1
    if o.row not in ROWS:
        return
    if o.convert:
        convert(o)
        return
    import numpy
    import openvino

    path = f"{o.model.rstrip('/')}-openvino/{o.row}-{o.px}-{o.batch}.xml"
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
    compiled = core.compile_model(path, "CPU", hints)
    request = compiled.create_infer_request()
    rng = numpy.random.default_rng(0)
    inputs = []
    for port in compiled.inputs:
        shape = list(port.shape)
        is_time = port.element_type.is_integral()
        inputs.append(numpy.full(shape, 500, numpy.int64) if is_time else rng.standard_normal(shape, numpy.float32))
    opened = time.perf_counter() - start
    side = f"OpenVINO {openvino.__version__.split('-')[0]}"
    bench_row.measure(o, side, opened, lambda: request.infer(inputs))


if __name__ == "__main__":
    main()
