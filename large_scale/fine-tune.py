"""Launcher: the repository's finetune_source_model_on_target_task.py; --model is required."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from finetune_source_model_on_target_task import main

if __name__ == "__main__":
    main(model=None)
