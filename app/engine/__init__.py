"""Who makes the tokens: here, on ZeroGPU, or on another server; and how a model is opened. Knows no page."""
