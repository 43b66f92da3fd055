"""Stable Diffusion 1.5's U-Net in plain torch.nn, for machines that have PyTorch and not diffusers.

The peer of scripts/gpu_peer.py: the same layers, sizes and parameter names as the published weights
(unet/diffusion_pytorch_model), attention by scaled_dot_product_attention. `python3 scripts/torch_unet.py` compares
it with diffusers' class where that is installed.
"""

import math

import torch
from torch import nn
from torch.nn import functional as F

CHANNELS = (320, 640, 1280, 1280)
CROSS_ATTENTION = (True, True, True, False)
LAYERS = 2
HEADS = 8
CONTEXT = 768
TIME = 4 * CHANNELS[0]
GROUPS = 32


class Resnet(nn.Module):
    def __init__(self, n_in, n_out):
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, n_in, eps=1e-5)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(TIME, n_out)
        self.norm2 = nn.GroupNorm(GROUPS, n_out, eps=1e-5)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(n_in, n_out, 1) if n_in != n_out else nn.Identity()

    def forward(self, x, time):
        y = self.conv1(F.silu(self.norm1(x))) + self.time_emb_proj(F.silu(time))[:, :, None, None]
        return self.conv_shortcut(x) + self.conv2(F.silu(self.norm2(y)))


class Attention(nn.Module):
    def __init__(self, n, n_context):
        super().__init__()
        self.to_q = nn.Linear(n, n, bias=False)
        self.to_k = nn.Linear(n_context, n, bias=False)
        self.to_v = nn.Linear(n_context, n, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(n, n)])

    def forward(self, x, context):
        q, k, v = (
            f(s).unflatten(-1, (HEADS, -1)).transpose(1, 2)
            for f, s in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        y = F.scaled_dot_product_attention(q, k, v)
        return self.to_out[0](y.transpose(1, 2).flatten(2))


class Gate(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.proj = nn.Linear(n, 8 * n)

    def forward(self, x):
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.net = nn.ModuleList([Gate(n), nn.Identity(), nn.Linear(4 * n, n)])

    def forward(self, x):
        return self.net[2](self.net[0](x))


class TransformerBlock(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(n) for _ in range(3))
        self.attn1 = Attention(n, n)
        self.attn2 = Attention(n, CONTEXT)
        self.ff = FeedForward(n)

    def forward(self, x, context):
        y = self.norm1(x)
        x = x + self.attn1(y, y)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class Transformer(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, n, eps=1e-6)
        self.proj_in = nn.Conv2d(n, n, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(n)])
        self.proj_out = nn.Conv2d(n, n, 1)

    def forward(self, x, context):
        height, width = x.shape[2:]
        y = self.proj_in(self.norm(x)).flatten(2).transpose(1, 2)
        y = self.transformer_blocks[0](y, context)
        return x + self.proj_out(y.transpose(1, 2).unflatten(2, (height, width)))


class Resample(nn.Module):
    """Half the size by a stride of two, or double it by repeating."""

    def __init__(self, n, stride):
        super().__init__()
        self.conv = nn.Conv2d(n, n, 3, stride, padding=1)
        self.up = stride == 1

    def forward(self, x):
        return self.conv(F.interpolate(x, scale_factor=2.0) if self.up else x)


class Block(nn.Module):
    """Resnets, each with its attention where the block has one; then a change of size where it has one."""

    def __init__(self, widths_in, n, attention, down=False, up=False):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(w, n) for w in widths_in)
        n_attention = len(widths_in) if attention else 0
        self.attentions = nn.ModuleList(Transformer(n) for _ in range(n_attention))
        if down:
            self.downsamplers = nn.ModuleList([Resample(n, 2)])
        if up:
            self.upsamplers = nn.ModuleList([Resample(n, 1)])

    def step(self, i, x, time, context):
        x = self.resnets[i](x, time)
        return self.attentions[i](x, context) if i < len(self.attentions) else x


class TimeEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear_1 = nn.Linear(CHANNELS[0], TIME)
        self.linear_2 = nn.Linear(TIME, TIME)

    def forward(self, t):
        half = CHANNELS[0] // 2
        k = torch.arange(half, device=t.device, dtype=torch.float32)
        angle = t[:, None].float() * torch.exp(-math.log(10000.0) / half * k)
        x = torch.cat([angle.cos(), angle.sin()], dim=-1)
        return self.linear_2(F.silu(self.linear_1(x.to(self.linear_1.weight.dtype))))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv_in = nn.Conv2d(4, CHANNELS[0], 3, padding=1)
        self.time_embedding = TimeEmbedding()
        self.down_blocks = nn.ModuleList()
        skips = [CHANNELS[0]]
        for i, n in enumerate(CHANNELS):
            last = i == len(CHANNELS) - 1
            widths = [skips[-1]] + [n] * (LAYERS - 1)
            self.down_blocks.append(Block(widths, n, CROSS_ATTENTION[i], down=not last))
            skips += [n] * (LAYERS if last else LAYERS + 1)
        n = CHANNELS[-1]
        self.mid_block = Block([n, n], n, False)
        self.mid_block.attentions.append(Transformer(n))
        self.up_blocks = nn.ModuleList()
        before = n
        for i in reversed(range(len(CHANNELS))):
            n = CHANNELS[i]
            widths = [(n if j else before) + skips.pop() for j in range(LAYERS + 1)]
            self.up_blocks.append(Block(widths, n, CROSS_ATTENTION[i], up=i > 0))
            before = n
        self.conv_norm_out = nn.GroupNorm(GROUPS, CHANNELS[0], eps=1e-5)
        self.conv_out = nn.Conv2d(CHANNELS[0], 4, 3, padding=1)

    def forward(self, x, t, context):
        time = self.time_embedding(t)
        x = self.conv_in(x)
        skips = [x]
        for block in self.down_blocks:
            for i in range(LAYERS):
                x = block.step(i, x, time, context)
                skips.append(x)
            if hasattr(block, "downsamplers"):
                x = block.downsamplers[0](x)
                skips.append(x)
        x = self.mid_block.step(0, x, time, context)
        x = self.mid_block.resnets[1](x, time)
        for block in self.up_blocks:
            for i in range(LAYERS + 1):
                x = block.step(i, torch.cat([x, skips.pop()], dim=1), time, context)
            if hasattr(block, "upsamplers"):
                x = block.upsamplers[0](x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


def main():
    import diffusers

    torch.manual_seed(0)
    theirs = diffusers.UNet2DConditionModel(cross_attention_dim=CONTEXT, attention_head_dim=HEADS)
    ours = UNet()
    ours.load_state_dict(theirs.state_dict())
    x, context = torch.randn(1, 4, 16, 16), torch.randn(1, 77, CONTEXT)
    t = torch.tensor([321])
    with torch.no_grad():
        a, b = ours(x, t, context), theirs(x, t, context).sample
    count = sum(p.numel() for p in ours.parameters())
    print(f"{count} parameters, largest difference {(a - b).abs().max() / b.abs().max():.1e}")


if __name__ == "__main__":
    main()
