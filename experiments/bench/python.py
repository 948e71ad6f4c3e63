"""What attune costs a Python trainer: run by `experiments/bench/run.sh python`.

Trains a model twice, step by step in turn, bare and attached to a daemon that keeps everything as
it is, on one thread and in processor time, so that a busy machine matters little. Then stops the
daemon by SIGSTOP and measures for how long a step is held up by its line.
"""

import copy
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import attune
import torch
from attune.probe import Probe
from attune.values import METRICS, PROFILE_BINS, Observation, floats
from torch import nn

BIN = Path(os.environ.get("ATTUNE_BIN_DIR", "build/release/bin"))


class Gpt(nn.Module):
    def __init__(self, vocabulary, width, heads, layers, length):
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.places = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width))
        mask = torch.full((length, length), float("-inf")).triu(1)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x):
        hidden = self.layers(self.tokens(x) + self.places, self.mask)
        return hidden @ self.tokens.weight.T


def step_seconds(model, optimizer, x, handle):
    """Processor seconds of one step, and whether it was a measured one."""
    before = None if handle is None else handle.last_observation
    start = time.process_time()
    loss = nn.functional.cross_entropy(model(x).flatten(0, 1), x.roll(-1, 1).flatten())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if handle is not None:
        handle.step(loss)
    seconds = time.process_time() - start
    return seconds, handle is not None and handle.last_observation is not before


def compare(endpoint, steps, batch, length, **shape):
    """Median seconds of a bare step, and of an attached one at the daemon's cadence."""
    bare = Gpt(length=length, **shape)
    attached = copy.deepcopy(bare)
    # A longer budget is measured more seldom.
    handle = attune.attach(attached, budget=attune.Budget.steps(10**4), endpoint=endpoint)
    optimizers = [torch.optim.SGD(model.parameters(), 1e-3) for model in (bare, attached)]
    x = torch.randint(0, shape["vocabulary"], (batch, length))
    times = {"bare": [], "plain": [], "measured": []}
    for number in range(steps + 2):
        bare_seconds, _ = step_seconds(bare, optimizers[0], x, None)
        seconds, measured = step_seconds(attached, optimizers[1], x, handle)
        if number >= 2:  # the first warm up
            times["bare"].append(bare_seconds)
            times["measured" if measured else "plain"].append(seconds)
    every = handle.probe.measure_every
    handle.finish()
    middle = {name: statistics.median(values) for name, values in times.items()}
    print(f"{shape}: {middle}, measured every {every} steps", file=sys.stderr)
    ours = (middle["plain"] * (every - 1) + middle["measured"]) / every
    return middle["bare"], ours


def held_up(endpoint, pid):
    """Seconds at the 99th percentile for which a step waits for the line to a stopped daemon."""
    site = attune.Site("attention", heads=144, head_width=64, context=1024)
    job = attune.JobSpec("held-up", "held up", (site,), attune.Budget.steps(10**6))
    probe = Probe(job, attune.Setting.neutral(144), endpoint=endpoint)
    step = 0
    while not probe.met:
        step += 1
        probe.poll(step)
    os.kill(pid, signal.SIGSTOP)
    observation = Observation(
        active=b"\x01" * 144,
        loss=1.0,
        metrics=floats([0.5] * 144 * len(METRICS)),
        profile=floats([1 / PROFILE_BINS] * 144 * PROFILE_BINS),
    )
    times = []
    for _ in range(8000):
        step += 1
        start = time.perf_counter()
        if probe.due(step):
            probe.observe(observation)
        probe.poll(step)
        times.append(time.perf_counter() - start)
    os.kill(pid, signal.SIGCONT)
    probe.finish(attune.Outcome.FINISHED, step, 1.0)
    print(f"dropped {probe.dropped} observations, longest {max(times):.6f} s", file=sys.stderr)
    return statistics.quantiles(times, n=100)[98]


def main():
    torch.set_num_threads(1)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        endpoint = f"ipc://{folder}/attuned.sock"
        log = open(f"{folder}/log", "w")  # noqa: SIM115
        command = [BIN / "attuned", "--config", "/dev/null", "--state-directory", folder]
        command += ["--policy", "keep"]
        daemon = subprocess.Popen(command, stderr=log)
        try:
            tiny = compare(  # the shape of the demo (experiments/demo_lm.cpp)
                endpoint, 160, 12, 256, vocabulary=256, width=64, heads=8, layers=3
            )
            held = held_up(endpoint, daemon.pid)
            small = compare(endpoint, 20, 1, 128, vocabulary=50_257, width=768, heads=12, layers=12)
        finally:
            daemon.terminate()
            daemon.wait()
            log.close()
    result = {
        "name": "python",
        "ours": {"gpt2_small": small[1], "tiny": tiny[1], "held_up_p99": held},
        "reference": {"gpt2_small": small[0], "tiny": tiny[0], "held_up_p99": 100e-6},
        "unit": "s",
        "ratio": {
            "gpt2_small": round(small[1] / small[0], 4),
            "tiny": round(tiny[1] / tiny[0], 4),
            "held_up_p99": round(held / 100e-6, 4),
        },
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
