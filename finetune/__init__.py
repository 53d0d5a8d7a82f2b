"""From medical questions to a LoRA adapter: data, training, evaluation, publishing. Command line: `python -m finetune --help`."""
