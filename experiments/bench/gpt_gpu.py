"""Writes Python byte by byte: a GPT of 25 million weights, made for a GPU.

attune run -- python experiments/bench/gpt_gpu.py --seed 0          # tuned
python experiments/bench/gpt_gpu.py --seed 0                        # untuned

Learns from the sources of the Python that runs it. The last line is JSON: the validation loss, the
seconds of training steps as the device has finished them, and the active heads of each layer.
"""

import argparse
import json
import math
import random
import sysconfig
import time
from pathlib import Path

import attune
import torch
from torch import nn

HEAD_WIDTH = 64
MOST_BYTES = 64_000_000


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--rate", type=float, default=1e-3, help="AdamW's, at its highest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


class Block(nn.Module):
    def __init__(self, width, context):
        super().__init__()
        self.heads = width // HEAD_WIDTH
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.attention_norm, self.norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )
        self.site = attune.Attention(
            self.heads, HEAD_WIDTH, causal=True, context=context, query=self.qkv, output=self.out
        )

    def forward(self, x):
        qkv = self.qkv(self.attention_norm(x)).unflatten(2, (3, self.heads, HEAD_WIDTH))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = attune.scaled_dot_product_attention(q, k, v, is_causal=True, site=self.site)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm(x))


class GPT(nn.Module):
    def __init__(self, layers, width, context):
        super().__init__()
        self.bytes, self.places = nn.Embedding(256, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, context) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 256)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                residual = name.endswith(("out.weight", "mlp.2.weight"))
                nn.init.normal_(weight, std=0.02 / (math.sqrt(2 * layers) if residual else 1))

    def forward(self, x):
        x = self.bytes(x) + self.places.weight[: x.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def sources():
    """The texts, in an order of their own: what is held out is like what is learned."""
    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    files += sorted(Path(sysconfig.get_path("purelib")).rglob("*.py"))
    random.Random(0).shuffle(files)
    text = bytearray()
    for file in files:
        if len(text) >= MOST_BYTES:
            break
        text += file.read_bytes()
    return torch.frombuffer(text, dtype=torch.uint8)


def main():
    options = arguments()
    device = torch.device(options.device)
    torch.manual_seed(options.seed)
    data = sources().to(device)
    split = len(data) * 19 // 20
    model = GPT(options.layers, options.width, options.context).to(device)
    optimizer = torch.optim.AdamW(
        model.parameters(), options.rate, betas=(0.9, 0.95), weight_decay=0.1
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.rate, total_steps=options.steps, pct_start=0.05, div_factor=100
    )
    draws = torch.Generator().manual_seed(options.seed)

    def loss_of(first, last, generator):
        start = torch.randint(
            first, last - options.context - 1, (options.batch, 1), generator=generator
        )
        index = start.to(device) + torch.arange(options.context + 1, device=device)
        text = data[index].long()
        with torch.autocast(device.type, dtype=torch.bfloat16):
            logits = model(text[:, :-1])
        return nn.functional.cross_entropy(logits.float().flatten(0, 1), text[:, 1:].flatten())

    def finished():
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    handle = attune.attach(
        model,
        name="gpt-gpu",
        budget=attune.Budget.steps(options.steps),
        seed=options.seed,
        learning_rate=options.rate,
        optimizer=optimizer,
        fresh=True,
    )
    began = finished()
    for step in range(1, options.steps + 1):
        loss = loss_of(0, split, draws)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        handle.step(loss)
        if step % 250 == 0:
            active = sum(handle.setting.active)
            print(f"step {step}: {loss.item():.3f} nats, {active} heads", flush=True)
    seconds = finished() - began
    model.eval()
    draws = torch.Generator().manual_seed(1)
    with torch.no_grad():
        losses = [loss_of(split, len(data), draws).item() for _ in range(64)]
    validation_loss = sum(losses) / len(losses)
    handle.finish(validation_loss)
    heads = [sum(handle.setting.active[i : i + site.heads]) for i, site in placed(handle.sites)]
    print(json.dumps({"validation_loss": validation_loss, "seconds": seconds, "heads": heads}))


def placed(sites):
    first = 0
    for site in sites:
        yield first, site
        first += site.heads


if __name__ == "__main__":
    main()
