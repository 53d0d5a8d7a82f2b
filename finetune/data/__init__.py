"""Data: sources and their forms, cleaning, families, splits, tokens, the page about data. Opens tokenizers, never a model."""
