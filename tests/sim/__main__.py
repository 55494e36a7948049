"""Run many seeds of the simulation over all cores; prints the first that breaks an invariant, and its trace."""

from __future__ import annotations

import argparse
import logging
import sys
from concurrent.futures import ProcessPoolExecutor

from rich.progress import track

from tests.sim.run import BrokenInvariantError, simulate


def broken(seed: int) -> str:
    """What a seed broke; empty when nothing."""
    logging.disable()
    try:
        simulate(seed)
    except BrokenInvariantError as error:
        return str(error)
    return ""


def main() -> int:
    parser = argparse.ArgumentParser(prog="make sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1000, help="how many (default 1000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    with ProcessPoolExecutor() as pool:
        for text in track(pool.map(broken, seeds, chunksize=10), total=len(seeds), description="simulating"):
            if text:
                pool.shutdown(cancel_futures=True)
                print(text, file=sys.stderr)
                return 1
    print(f"{len(seeds)} seeds from {options.first}: clean")
    return 0


if __name__ == "__main__":
    sys.exit(main())
