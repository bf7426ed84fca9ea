"""Whisper's network in PyTorch, with the names that export.py reads; small enough to train on a CPU."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH = 64  # of every layer; the heads are 16 wide
LAYERS = 2  # in the encoder, and again in the decoder
CONTEXT = 448  # the longest text, in tokens


def sinusoids(length: int, width: int) -> Tensor:
    """The encoder's fixed positions."""
    step = math.log(10000) / (width // 2 - 1)
    rates = torch.exp(-step * torch.arange(width // 2))
    angles = torch.arange(length)[:, None] * rates[None]
    return torch.cat([angles.sin(), angles.cos()], 1)


class Attention(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // 16
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width)
        self.o = nn.Linear(width, width)

    def forward(self, x: Tensor, source: Tensor | None = None, causal: bool = False) -> Tensor:
        """Attend from x to the source, or to itself where none is given."""
        source = x if source is None else source
        batch, length, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(batch, -1, self.heads, width // self.heads).transpose(1, 2)

        q, k, v = split(self.q(x)), split(self.k(source)), split(self.v(source))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=causal)
        return self.o(y.transpose(1, 2).reshape(batch, length, width))


class Block(nn.Module):
    """A layer of the encoder, or of the decoder where `cross` is set."""

    def __init__(self, width: int, cross: bool) -> None:
        super().__init__()
        self.cross = cross
        self.ln1 = nn.LayerNorm(width)
        self.sa = Attention(width)
        if cross:
            self.ln2 = nn.LayerNorm(width)
            self.ca = Attention(width)
        self.ln3 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, encoded: Tensor | None = None) -> Tensor:
        x = x + self.sa(self.ln1(x), causal=self.cross)
        if self.cross:
            x = x + self.ca(self.ln2(x), encoded)
        return x + self.fc2(functional.gelu(self.fc1(self.ln3(x))))


class Whisper(nn.Module):
    def __init__(self, tokens: int, width: int = WIDTH, layers: int = LAYERS) -> None:
        super().__init__()
        self.c1 = nn.Conv1d(80, width, 3, padding=1)
        self.c2 = nn.Conv1d(width, width, 3, stride=2, padding=1)
        self.register_buffer("pe", sinusoids(1500, width))
        self.enc = nn.ModuleList([Block(width, cross=False) for _ in range(layers)])
        self.eln = nn.LayerNorm(width)
        self.emb = nn.Embedding(tokens, width)
        nn.init.normal_(self.emb.weight, std=0.04)
        self.dpe = nn.Parameter(torch.randn(CONTEXT, width) * 0.01)
        self.dec = nn.ModuleList([Block(width, cross=True) for _ in range(layers)])
        self.dln = nn.LayerNorm(width)

    def encode(self, mel: Tensor) -> Tensor:
        x = functional.gelu(self.c1(mel))
        x = functional.gelu(self.c2(x)).transpose(1, 2)
        x = x + self.pe[: x.shape[1]]
        for block in self.enc:
            x = block(x)
        return self.eln(x)

    def decode(self, tokens: Tensor, encoded: Tensor) -> Tensor:
        """The logits of the token after each one given."""
        x = self.emb(tokens) + self.dpe[: tokens.shape[1]]
        for block in self.dec:
            x = block(x, encoded)
        return self.dln(x) @ self.emb.weight.T
