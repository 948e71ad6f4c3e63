"""What the tests of the Python package share."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "collectors" / "python" / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
