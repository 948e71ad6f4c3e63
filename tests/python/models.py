"""Small models that tests train, and settings for them."""

import attune
import torch
from torch import nn


class OwnModel(nn.Module):
    """Causal attention of a model's own, between projections that `bake` can fold into."""

    def __init__(self, heads=4, key_heads=4, width=8):
        super().__init__()
        size = heads * width
        self.heads, self.key_heads, self.width = heads, key_heads, width
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, key_heads * width)
        self.value = nn.Linear(size, key_heads * width)
        self.output = nn.Linear(size, size)
        self.attention = attune.Attention(
            heads, width, causal=True, context=64, query=self.query, output=self.output
        )

    def forward(self, x):
        q, k, v = (
            projection(x).view(*x.shape[:2], -1, self.width).transpose(1, 2)
            for projection in (self.query, self.key, self.value)
        )
        y = attune.scaled_dot_product_attention(q, k, v, is_causal=True, site=self.attention)
        return self.output(y.transpose(1, 2).flatten(2))


def encoder(layers=2, **options):
    options = {"batch_first": True, "dropout": 0.0, **options}
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, **options), layers)


def attached(model, steps=1000, **options):
    return attune.attach(model, budget=attune.Budget.steps(steps), **options)


def varied(sites):
    """A setting with scales, gains and one skipped head, the third, at every site."""
    scale, gain, active = attune.Setting.neutral(0), [], bytearray()
    scales = []
    for site in sites:
        scales += [1.5 if head % 2 else 0.75 for head in range(site.heads)]
        gain += [0.5 + head for head in range(site.heads)]
        active += bytes(head != 2 for head in range(site.heads))
    make = type(scale.scale)
    return attune.Setting(make("f", scales), make("f", gain), bytes(active))


def apply(handle, setting):
    """What the daemon's action does, without a daemon."""
    assert handle.apply(setting) is None


def train(model, handle, x, steps, learning_rate=0.01):
    optimizer = torch.optim.SGD(model.parameters(), learning_rate)
    for _ in range(steps):
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        handle.step(loss)
