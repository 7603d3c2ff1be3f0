"""Launcher: the repository's train_source_model.py, from inside small_scale/."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from train_source_model import main

if __name__ == "__main__":
    main()
