"""What a training run came to, epoch by epoch, as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

FITTED_COLOUR, HELD_OUT_COLOUR = "#9aa3b2", "#2f6fde"


def plot_curves(fitted: Sequence[float], held_out: Sequence[float], path: Path) -> bool:
    """Writes the losses of users fitted and held out as PNG, the epoch that is kept marked. Whether it could: not
    without the extra `plot`."""
    if find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    epochs = range(1, len(held_out) + 1)
    axes.plot(epochs, fitted, color=FITTED_COLOUR, label="users fitted, as the epoch went")
    axes.plot(epochs, held_out, color=HELD_OUT_COLOUR, label="users held out, after it")
    best = min(epochs, key=lambda epoch: held_out[epoch - 1])
    axes.plot(best, held_out[best - 1], "o", color=HELD_OUT_COLOUR)
    axes.annotate(
        f"kept: {held_out[best - 1]:.4f}", (best, held_out[best - 1]), xytext=(0, 10), textcoords="offset points"
    )
    axes.set(xlabel="epoch", ylabel="mean loss, nats", title="Training")
    axes.margins(y=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    figure.savefig(path, dpi=120)
    return True
