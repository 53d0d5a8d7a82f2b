"""Draws a run: losses, learning rate and gradient norm, speed and memory, as one SVG file that needs nothing else."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

NAME = "training.svg"
INK, ACCENT = "#1f5f7a", "#c2571a"


def plot_run(run: dict[str, Any], path: Path) -> None:
    """Draws the histories of `run.json` into `path`.

    Args:
        run: `loss_history` and `validation_history` as `finetune.training.progress` makes them; an empty history leaves its panel empty.
        path: An SVG file, about 40 kB.
    """
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasSVG(figure)
    history, validation = run["loss_history"], run["validation_history"]
    panels = figure.subplots(2, 2).flat
    loss, rate, norm, speed = panels
    _line(loss, history, "loss", "training", INK)
    _line(loss, validation, "loss", "validation", ACCENT, "o-")
    if run.get("best_step"):
        loss.axvline(run["best_step"], color=ACCENT, linewidth=0.8, linestyle=":", label=f"exported: step {run['best_step']}")
    if loss.lines:
        loss.legend(frameon=False)
    _line(rate, history, "learning_rate", "", INK)
    _line(norm, history, "grad_norm", "", INK)
    _line(speed, history, "tokens_per_second", "", INK)
    titles = ("loss, nats per token", "learning rate", "gradient norm", "tokens per second")
    for axes, title in zip((loss, rate, norm, speed), titles, strict=True):
        axes.set_title(title, loc="left", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("step", fontsize=8)
        axes.tick_params(labelsize=8)
    memory = max((entry.get("memory_gib", 0) for entry in history), default=0)
    figure.suptitle(f"{run['base']['id']} · {run['data']['id']} · {run['hardware']} · peak memory {memory:.1f} GiB", fontsize=9)
    figure.savefig(path, metadata={"Date": None})


def _line(axes: Any, entries: list[dict[str, float]], key: str, label: str, colour: str, style: str = "-") -> None:
    points = [(entry["step"], entry[key]) for entry in entries if key in entry]
    if points:
        axes.plot(*zip(*points, strict=True), style, color=colour, label=label or None, linewidth=1.4, markersize=4)
