"""`python -m evercurrent.models.knowledge_tracing.make_default`: trains the shipped weights, on simulated learners.

No real learner's answer goes into them. One seed gives one result on one machine.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from pathlib import Path

from rich.console import Console

from evercurrent.models.knowledge_tracing.simulator import default_world, simulate
from evercurrent.models.knowledge_tracing.training import train

DEFAULT_WEIGHTS = Path(__file__).with_name("default.safetensors")
NUM_USERS, NUM_EVENTS = 2_000, 120
TRAIN_SEED = 1


def main() -> None:
    """Trains, writes the weights, prints the scores."""
    parser = argparse.ArgumentParser(
        description="Train the shipped weights of knowledge tracing on simulated learners."
    )
    parser.add_argument(
        "--out", type=Path, default=DEFAULT_WEIGHTS, help="the file to write (default: the shipped one)"
    )
    out: Path = parser.parse_args().out
    log = simulate(default_world(), NUM_USERS, NUM_EVENTS, seed=TRAIN_SEED)
    with tempfile.TemporaryDirectory() as folder:
        trained = train(log, Path(folder), seed=TRAIN_SEED, console=Console(stderr=True))
        shutil.copyfile(trained.weights, out)
    print(json.dumps({"train_s": round(trained.train_s, 1), **trained.validation}))


if __name__ == "__main__":
    main()
