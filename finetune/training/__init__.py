"""From rows of tokens to an adapter directory: trainer, checkpoints, progress. `train.py` alone imports Unsloth."""
