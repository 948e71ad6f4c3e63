"""Writes descriptions of Debian's packages, character by character: a GPT in plain PyTorch.

attune run -- python experiments/python/gpt_text.py [steps]
"""

import sys

import attune
import torch
from packages import packages
from torch import nn

WIDTH, HEADS, CONTEXT, STEPS = 128, 8, 128, int((sys.argv[1:] or [500])[0])


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        wide, narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.norm, self.mlp = nn.LayerNorm(WIDTH), nn.Sequential(wide, nn.GELU(), narrow)
        self.site = attune.Attention(
            HEADS, WIDTH // HEADS, causal=True, context=CONTEXT, query=self.qkv, output=self.out
        )

    def forward(self, x):
        q, k, v = self.qkv(self.norm(x)).unflatten(2, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        y = attune.scaled_dot_product_attention(q, k, v, is_causal=True, site=self.site)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm(x))


class GPT(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(128, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.layers = nn.Sequential(Block(), Block(), Block(), nn.Linear(WIDTH, 128))

    def forward(self, text):  # the loss of eight stretches of it
        rows = torch.randint(len(text) - CONTEXT, (8, 1)) + torch.arange(CONTEXT + 1)
        logits = self.layers(self.words(text[rows[:, :-1]]) + self.places.weight)
        return nn.functional.cross_entropy(logits.flatten(0, 1), text[rows[:, 1:]].flatten())


torch.manual_seed(0)
data = torch.tensor(list("\n".join(text for text, _ in packages()).encode("ascii", "replace")))
train, held_out = data[: -len(data) // 10], data[-len(data) // 10 :]
model = GPT()
optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
job = {"name": "gpt-text", "budget": attune.Budget.steps(STEPS)}
with attune.attach(model, **job, learning_rate=2e-3, optimizer=optimizer, fresh=True) as handle:
    for step in range(1, STEPS + 1):
        loss = model(train)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        handle.step(loss)
        if step % 100 == 0:
            print(f"step {step}: {loss.item():.3f} nats, active {list(handle.setting.active)}")
    with torch.no_grad():
        handle.finish(sum(model(held_out) for _ in range(8)) / 8)
plain = handle.bake()
