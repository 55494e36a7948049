"""Kill a worker again and again under load, on a SQLite file or on a real S3 server, and check every promise."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.progress import Progress

from tests.kills.run import BrokenPromiseError, kill_repeatedly
from tests.persistence import servers


@contextmanager
def store_of(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a new store."""
    if kind == "sqlite":
        yield f"sqlite:{folder}/store.db"
        return
    os.environ.update(servers.CREDENTIALS)
    with servers.seaweedfs(folder) as server:
        yield server.url("kills", path_style="true")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kills", description=__doc__)
    parser.add_argument("--store", choices=("sqlite", "s3"), default="sqlite", help="default: sqlite")
    parser.add_argument("--kills", type=int, default=20, help="how many (default 20)")
    parser.add_argument("--seed", type=int, default=1, help="of what is sent and when is killed (default 1)")
    options = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as folder,
        store_of(options.store, Path(folder)) as store,
        Progress() as progress,
    ):
        task = progress.add_task("killing", total=options.kills)
        try:
            tally = kill_repeatedly(store, options.kills, options.seed, lambda: progress.advance(task))
        except BrokenPromiseError as error:
            print(f"broken: {error}", file=sys.stderr)
            return 1
    print(
        f"{options.kills} kills on {options.store}: {tally.num_results:,} updates over {tally.num_streams} streams; "
        "no durable event missing, none twice, none out of order"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
