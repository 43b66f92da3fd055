#!/usr/bin/env python3
"""Golden values of an R1 penalty through a small discriminator, from PyTorch's double backward.

    golden_r1.py OUTPUT.safetensors

The discriminator has what the one of LATS has (royorel/Lifespan_Age_Transformation_Synthesis:
models/networks.py): reflection pads, a [1,2,1] blur, 3x3 convolutions, leaky ReLU, average pools,
the minibatch standard deviation as an extra channel, and a linear layer. Stored: x, the weights, the
output, g = d mean(output) / dx, the penalty 10 sum(g^2) / N, and its gradient by every weight.
Computed in f64, stored as f32; x and g [N,H,W,C], kernels [O,kh,kw,I]. tests/test_r1.c reads it.
"""
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.set_num_threads(2)
torch.manual_seed(20)
CHANNELS = [6, 8, 10]
N, SIZE, CLASSES = 3, 16, 4


def draw(*shape, fan_in):
    return (torch.randn(*shape, dtype=torch.float64) * (2.0 / fan_in) ** 0.5).float().double()


def convolution(weights, name, out, inp, size):
    weights[name + ".weight"] = draw(out, inp, size, size, fan_in=inp * size * size)
    weights[name + ".bias"] = (torch.randn(out, dtype=torch.float64) * 0.1).float().double()


def blur(x):
    line = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype)
    kernel = torch.outer(line, line) / 16
    channels = x.shape[1]
    return F.conv2d(x, kernel.expand(channels, 1, 3, 3), padding=1, groups=channels)


def reflect(x):
    return F.pad(x, (1, 1, 1, 1), mode="reflect")


def layer(weights, name, x):
    return F.conv2d(x, weights[name + ".weight"], weights[name + ".bias"])


def discriminator(weights, x):
    x = F.leaky_relu(layer(weights, "first", x), 0.2)
    for i in range(len(CHANNELS) - 1):
        x = F.leaky_relu(layer(weights, f"block{i}.conv0", reflect(x)), 0.2)
        x = F.avg_pool2d(layer(weights, f"block{i}.conv1", reflect(blur(x))), 2)
        x = F.leaky_relu(x, 0.2)
    deviation = torch.sqrt(x.var(dim=0, unbiased=False) + 1e-8).mean()
    x = torch.cat([x, deviation.expand(x.shape[0], 1, *x.shape[2:])], dim=1)
    x = F.leaky_relu(layer(weights, "head.conv", reflect(x)), 0.2)
    x = x.permute(0, 2, 3, 1).flatten(1)  # channels last, as the reader flattens
    return F.leaky_relu(F.linear(x, weights["head.linear.weight"], weights["head.linear.bias"]), 0.2)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    weights = {}
    convolution(weights, "first", CHANNELS[0], 3, 1)
    for i, (inp, out) in enumerate(zip(CHANNELS, CHANNELS[1:])):
        convolution(weights, f"block{i}.conv0", out, inp, 3)
        convolution(weights, f"block{i}.conv1", out, out, 3)
    top, side = CHANNELS[-1], SIZE >> (len(CHANNELS) - 1)
    convolution(weights, "head.conv", top, top + 1, 3)
    weights["head.linear.weight"] = draw(CLASSES, top * side * side, fan_in=top * side * side)
    weights["head.linear.bias"] = (torch.randn(CLASSES, dtype=torch.float64) * 0.1).float().double()
    x = (torch.rand(N, 3, SIZE, SIZE, dtype=torch.float64) * 2 - 1).float().double().requires_grad_()
    for w in weights.values():
        w.requires_grad_()

    y = discriminator(weights, x)
    (g,) = torch.autograd.grad(y.mean(), x, create_graph=True)
    penalty = 10 * g.square().sum() / N
    grads = torch.autograd.grad(penalty, list(weights.values()), allow_unused=True)

    def last(t):
        t = t.detach()
        return (t.permute(0, 2, 3, 1) if t.dim() == 4 else t).contiguous().float()

    out = {"x": last(x), "y": last(y), "g": last(g), "penalty": penalty.detach().reshape(1).float()}
    for (name, w), dw in zip(weights.items(), grads):
        out[name] = last(w)
        out["grad." + name] = last(torch.zeros_like(w) if dw is None else dw)
    save_file(out, sys.argv[1], metadata={"torch": torch.__version__, "seed": "20"})


main()
