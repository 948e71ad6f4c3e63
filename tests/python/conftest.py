"""What the tests of the Python package share."""

import sys
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collectors" / "python" / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

# The models are tiny: more threads would wait for each other.
torch.set_num_threads(1)
