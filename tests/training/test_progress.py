"""What is kept and drawn of a run."""

from pathlib import Path

from finetune.training.plot import plot_run
from finetune.training.progress import Stopwatch, loss_history, validation_history

LOG = [
    {"step": 1, "loss": 2.5, "learning_rate": 1e-5, "grad_norm": 1.23456789, "tokens_per_second": 100.0, "memory_gib": 1.5, "epoch": 0.1},
    {"step": 2, "eval_loss": 2.4, "eval_runtime": 1.0},
    {"step": 2, "train_runtime": 3.0, "train_loss": 2.5},
]


def test_the_histories_hold_the_metrics_of_training_and_the_losses_of_validation() -> None:
    assert loss_history(LOG) == [
        {"step": 1, "loss": 2.5, "learning_rate": 1e-5, "grad_norm": 1.23457, "tokens_per_second": 100.0, "memory_gib": 1.5}
    ]
    assert validation_history(LOG) == [{"step": 2, "loss": 2.4}]


def test_validation_and_saving_are_left_out_of_the_speed() -> None:
    watch = Stopwatch()
    watch.restart()
    watch.tokens += 100
    watch.step()
    trained = watch.seconds
    watch.restart()  # whatever happened in between is no training
    assert watch.seconds == trained > 0
    assert watch.read() == 100 / trained
    assert watch.read() == 0


def test_the_plot_draws_both_losses_and_names_the_run(tmp_path: Path) -> None:
    run = {
        "base": {"id": "some/base"},
        "data": {"id": "cards.jsonl"},
        "hardware": "CPU, 1 threads",
        "best_step": 2,
        "loss_history": loss_history(LOG),
        "validation_history": validation_history(LOG),
    }
    plot_run(run, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert all(text in drawn for text in ("<svg", "some/base", "validation", "exported: step 2", "tokens per second"))
    plot_run(run | {"loss_history": [], "validation_history": [], "best_step": None}, tmp_path / "b.svg")
