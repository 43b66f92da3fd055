#!/usr/bin/env python3
"""PyTorch's side of scripts/gpu_check.sh: ceilings of the device, and rows of `agewright bench` on it.

    gpu_peer.py ceilings
    gpu_peer.py ROW [--batch B] [--px 512] [--how eager|compile|graph] [--device cuda] [--seconds 10]

ROW is unet_forward, unet_frozen, unet_full or lora_step. One line of JSON each. bf16 through autocast, channels last,
scaled-dot-product attention, fused AdamW; `graph` is eager PyTorch captured as a CUDA graph, `compile` is
torch.compile with its default mode. The U-Net is diffusers' where that is installed, else the same in torch.nn
(torch_unet.py); its weights are random. Seconds are the median of as many rounds as fit.
"""

import argparse
import json
import resource
import statistics
import time

import torch

TEXT_TOKENS, CONTEXT, LATENTS, FACTOR, RANK = 77, 768, 4, 8, 16


class Clock:
    """Time of `once` on the device, in seconds: median of the rounds that fit in the budget, at least three."""

    def __init__(self, device, budget):
        self.device, self.budget = device, budget

    def wait(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def measure(self, once):
        for _ in range(2):
            once()
        self.wait()
        rounds, began = [], time.perf_counter()
        while len(rounds) < 3 or time.perf_counter() - began < self.budget:
            start = time.perf_counter()
            once()
            self.wait()
            rounds.append(time.perf_counter() - start)
        return statistics.median(rounds)


def ceilings(o, clock):
    n = 8192 if o.device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=o.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = clock.measure(lambda: a @ b)
    print(json.dumps({"ceiling": "matmul bf16", "value": round(2e-12 * n**3 / seconds, 3), "unit": "TFLOP/s"}))
    source = torch.empty(n * n * 16, device=o.device, dtype=torch.float32)
    target = torch.empty_like(source)
    seconds = clock.measure(lambda: target.copy_(source))
    rate = 2e-12 * source.numel() * source.element_size() / seconds
    print(json.dumps({"ceiling": "copy", "value": round(rate, 3), "unit": "TB/s"}))


def unet(o):
    """The U-Net as a function of latents, timesteps and text; and its name."""
    try:
        import diffusers

        config = {"cross_attention_dim": CONTEXT, "attention_head_dim": 8}
        net = diffusers.UNet2DConditionModel(**config)
        name = f"diffusers {diffusers.__version__}"
    except ImportError:
        from torch_unet import UNet

        net, name = UNet(), "torch.nn"
    net = net.to(o.device, memory_format=torch.channels_last)
    call = (lambda *given: net(*given).sample) if name != "torch.nn" else net
    return net, call, name


class Lora(torch.nn.Module):
    """A frozen linear layer with a trained product of rank 16 beside it."""

    def __init__(self, linear):
        super().__init__()
        self.linear = linear.requires_grad_(False)
        self.down = torch.nn.Linear(linear.in_features, RANK, bias=False, device=linear.weight.device)
        self.up = torch.nn.Linear(RANK, linear.out_features, bias=False, device=linear.weight.device)
        torch.nn.init.normal_(self.down.weight, std=1 / RANK)
        torch.nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.linear(x) + self.up(self.down(x))


def adapt(net):
    net.requires_grad_(False).to(torch.bfloat16)
    for module in list(net.modules()):
        for name in ("to_q", "to_k", "to_v"):
            if hasattr(module, name):
                setattr(module, name, Lora(getattr(module, name)))
        if hasattr(module, "to_out"):
            module.to_out[0] = Lora(module.to_out[0])
    return [p for p in net.parameters() if p.requires_grad]


def work(o, net, call):
    side = o.px // FACTOR
    shape = (o.batch, LATENTS, side, side)
    x = torch.randn(shape, device=o.device).to(memory_format=torch.channels_last)
    noise = torch.randn_like(x)
    context = torch.randn(o.batch, TEXT_TOKENS, CONTEXT, device=o.device)
    t = torch.full((o.batch,), 500, device=o.device)
    autocast = torch.autocast(o.device.type, torch.bfloat16)

    if o.row == "unet_forward":
        net.requires_grad_(False)

        def once():
            with torch.no_grad(), autocast:
                call(x, t, context)

    elif o.row == "unet_frozen":
        net.requires_grad_(False)
        x.requires_grad_(True)
        context.requires_grad_(True)

        def once():
            with autocast:
                y = call(x, t, context)
            torch.autograd.grad(y, [x, context], noise.to(y.dtype))

    else:
        trained = adapt(net) if o.row == "lora_step" else list(net.parameters())
        optimizer = torch.optim.AdamW(trained, lr=5e-6, fused=True, capturable=o.device.type == "cuda")

        def once():
            with autocast:
                loss = torch.nn.functional.mse_loss(call(x, t, context).float(), noise)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=o.how != "graph")

    return once


def captured(once):
    """`once` as a CUDA graph, after a warm-up on a stream of its own."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            once()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        once()
    return graph.replay


def row(o, clock):
    torch.manual_seed(0)
    net, call, name = unet(o)
    if o.how == "compile":
        call = torch.compile(call)
    once = work(o, net, call)
    if o.how == "graph":
        once = captured(once)
    seconds = clock.measure(once)
    if o.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "side": f"PyTorch {torch.__version__.split('+')[0]} + {name}, {o.how}",
        "row": o.row,
        "px": o.px,
        "batch": o.batch,
        "threads": 0 if o.device.type == "cuda" else torch.get_num_threads(),
        "dtype": "bf16",
        "seconds": seconds,
        "gb": 1e-9 * peak,
    }
    print(json.dumps(result))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    rows = ["unet_forward", "unet_frozen", "unet_full", "lora_step"]
    parser.add_argument("row", choices=["ceilings", *rows])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--px", type=int, default=512)
    parser.add_argument("--how", choices=["eager", "compile", "graph"], default="eager")
    parser.add_argument("--device", type=torch.device, default=torch.device("cuda"))
    parser.add_argument("--seconds", type=float, default=10)
    o = parser.parse_args()
    clock = Clock(o.device, o.seconds)
    (ceilings if o.row == "ceilings" else row)(o, clock)


if __name__ == "__main__":
    main()
