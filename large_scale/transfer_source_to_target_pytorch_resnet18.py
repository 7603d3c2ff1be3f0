"""Launcher: the repository's transfer_source_to_target.py with --model resnet18."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from transfer_source_to_target import main

if __name__ == "__main__":
    main(model="resnet18")
