"""What the examples share: their options, a service of their own, the table and the plot at their end."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.table import Table

from evercurrent.cli.cluster import run_cluster
from evercurrent.cli.errors import CommandError
from evercurrent.model import Model
from evercurrent.models.adaptive import LogError
from evercurrent.models.loading import class_path, save_model

NUM_WORKERS = 2
COLOURS = ("#2f6fde", "#9aa3b2", "#d9822b", "#3d9970", "#b0413e")

console = Console()


@dataclass(frozen=True, slots=True)
class Arguments:
    """What an example is told. `data`: a real log; None: a simulated one. `quick`: less of everything, to see that it
    runs."""

    data: Path | None
    out: Path
    seed: int
    quick: bool


def run_example(name: str, about: str, data_help: str, run: Callable[[Arguments], None]) -> None:
    """Reads the options and runs an example; a log that cannot be used, or a service that fails, ends it with a clear
    text and exit code 1."""
    parser = argparse.ArgumentParser(prog=f"python -m examples.{name}", description=about)
    parser.add_argument("--data", type=Path, metavar="FILE", help=f"{data_help} (default: simulated)")
    parser.add_argument("--out", type=Path, metavar="DIR", help=f"gets the plot (default: runs/{name})")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="draws all that is drawn (default: 0)")
    parser.add_argument("--quick", action="store_true", help="less of everything, to see that it runs")
    given = parser.parse_args()
    out: Path = given.out or Path("runs") / name
    out.mkdir(parents=True, exist_ok=True)
    try:
        run(Arguments(given.data, out, given.seed, given.quick))
    except (LogError, CommandError) as error:
        raise SystemExit(f"{name}: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


@contextmanager
def serving(model: Model) -> Iterator[str]:
    """A router and workers that serve a model; the router's address. They end with the block."""
    with tempfile.TemporaryDirectory(prefix="evercurrent-example-") as folder:
        weights = Path(folder) / "weights.safetensors"
        save_model(model, weights)
        with run_cluster(
            num_workers=NUM_WORKERS, model=class_path(type(model)), weights=weights, store="memory:"
        ) as cluster:
            yield cluster.address


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], caption: str = "") -> None:
    """A table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left")
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if caption:
        console.print(caption, style="dim", soft_wrap=True)


def plot_seen(
    bounds: Sequence[int],
    curves: Mapping[str, npt.ArrayLike],
    path: Path,
    title: str,
    score: str,
    seen: str = "events of the user before",
) -> None:
    """Writes a score against the events seen per user as PNG: a line each, of the means from one bound to the next."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    middles = [0.5 * (low + high - 1) for low, high in pairwise(bounds)]
    for colour, (name, values) in zip(COLOURS, curves.items(), strict=False):
        axes.plot(middles, np.asarray(values), "o-", color=colour, label=name, markersize=4)
    axes.set(xlabel=seen, ylabel=score, title=title)
    axes.grid(alpha=0.25)
    figure.legend(loc="outside lower center", ncols=3)
    figure.savefig(path, dpi=130)
    console.print(f"Wrote {path}")


def seen_bounds(num_max: int, first: int = 1) -> list[int]:
    """Bounds of bins of events seen: `first` in the first one, then each twice as wide as the one before."""
    bounds, width = [0], first
    while bounds[-1] < num_max:
        bounds.append(min(bounds[-1] + width, num_max))
        width *= 2
    return bounds
