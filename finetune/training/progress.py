"""What a person sees of a run while it goes on: a bar, losses, speed, an answer at each validation. Knows no model.

The figures themselves come from the trainer's log, which is also what the trackers get and what a checkpoint keeps.
"""

import logging
import random
import signal
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune.data.sources import Example
from finetune.training.checkpoints import is_first_process

log = logging.getLogger(__name__)

KEPT = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "memory_gib")


def loss_history(entries: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The training metrics of a trainer's log: step, loss, learning rate, gradient norm, tokens per second, peak memory in GiB."""
    return [
        {"step": entry["step"]} | {key: float(f"{float(entry[key]):.6g}") for key in KEPT if key in entry}
        for entry in entries
        if "loss" in entry
    ]


def validation_history(entries: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The validation losses of a trainer's log, in nats per token."""
    return [{"step": entry["step"], "loss": round(float(entry["eval_loss"]), 5)} for entry in entries if "eval_loss" in entry]


class Stopwatch:
    """Tokens per second of training alone: validation, checkpoints and the first steps' compilation are left out by `restart`."""

    def __init__(self) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._mark = time.perf_counter()

    def restart(self) -> None:
        """What passed since the last call was no training."""
        self._mark = time.perf_counter()

    def step(self) -> None:
        """An optimizer step has ended."""
        now = time.perf_counter()
        self.seconds += now - self._mark
        self._mark = now

    def read(self) -> float:
        """Tokens per second since the last reading."""
        speed = self.tokens / self.seconds if self.seconds else 0.0
        self.tokens, self.seconds = 0, 0.0
        return speed


class Progress(TrainerCallback):
    """A progress bar, an answer to a validation question at each validation, and a stop that leaves a checkpoint.

    Args:
        questions: Conversations to take the questions from.
        answer: Answers messages with the model as it is at that moment.
        seed: Which question is asked at which step follows from it.
    """

    def __init__(
        self,
        watch: Stopwatch | None = None,
        questions: list[Example] | None = None,
        answer: Callable[[list[dict[str, str]]], str] | None = None,
        seed: int = 0,
    ) -> None:
        self.watch = watch or Stopwatch()
        self.interrupted = False
        self._questions, self._answer, self._seed = questions or [], answer, seed
        self._bar: tqdm | None = None

    def interrupt(self, *_: Any) -> None:
        """Handles Ctrl-C: finish this step, save, stop; a second Ctrl-C ends at once."""
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        log.info("Stopping after this step and saving a checkpoint; press Ctrl-C again to stop at once.")

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Opens the bar at the step that a resumed run starts from."""
        quiet = not is_first_process()
        self._bar = tqdm(total=state.max_steps, initial=state.global_step, desc="training", unit="step", disable=quiet, delay=0)
        self.watch.restart()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Moves the bar; asks for a checkpoint and a stop when interrupted."""
        self.watch.step()
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)
        if self.interrupted:
            control.should_save = control.should_training_stop = True

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict | None = None, **_: Any) -> None:
        """Writes loss and tokens per second beside the bar."""
        if self._bar is not None and logs and "loss" in logs:
            self._bar.set_postfix(loss=f"{float(logs['loss']):.3f}", tok_s=f"{logs.get('tokens_per_second', 0):.0f}")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, metrics: dict | None = None, **_: Any
    ) -> None:
        """Shows the validation loss and one question of the validation set with the answer that the model gives by now."""
        if is_first_process():
            lines = [f"step {state.global_step}: validation loss {(metrics or {}).get('eval_loss', float('nan')):.4f}"]
            if self._questions and self._answer:
                example = random.Random(f"{self._seed}-{state.global_step}").choice(self._questions)
                lines += [f"  Q: {example.messages[0]['content']}", f"  A: {self._answer(example.messages[:1])}"]
            tqdm.write("\n".join(lines))
        self.watch.restart()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Leaves the time of writing a checkpoint out of the speed."""
        self.watch.restart()

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
