"""Compiles a model for the CPU that it is trained on, where the passes over memory cost more than the arithmetic.

Only long runs gain: compiling takes minutes. Without a C++ compiler, or where compiling fails, a run goes on as it would have.
"""

import shutil
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.modeling_layers import GradientCheckpointingLayer

WORTH_COMPILING = 500  # steps of a whole model from which on compiling pays
LAYERS_WORTH_COMPILING = 1000  # steps of a LoRA training: its rows differ in length, which takes longer to compile for
SETTLED = 20  # steps in which a training has met the lengths that its rows have


def can_compile() -> bool:
    """Whether there is what compiling for a CPU needs; what fails to compile, without Python's headers, say, then runs as it is."""
    torch._dynamo.config.suppress_errors = True
    return shutil.which("g++") is not None


class CompileLayers(TrainerCallback):
    """Compiles each decoder layer in place at the start of a long run; needs no GPU.

    After the first steps nothing is compiled any more: a shape that comes up later, the last and smaller batch or an answer
    in the middle of training, runs as it is.
    """

    def __init__(self) -> None:
        self._last: int | None = None

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any) -> None:
        """Marks the layers; each is compiled when it is first called."""
        if state.max_steps - state.global_step >= LAYERS_WORTH_COMPILING and can_compile():
            self._last = state.global_step + SETTLED
            for module in model.modules():
                if isinstance(module, GradientCheckpointingLayer):  # what transformers makes every decoder layer of
                    module.compile()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ends compiling once the usual shapes have been met."""
        if state.global_step == self._last:
            torch.compiler.set_stance("eager_on_recompile")

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Lets other models of this process be compiled again."""
        if self._last is not None:
            torch.compiler.set_stance("default")
