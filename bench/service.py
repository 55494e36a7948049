"""The service that the benches measure: a router and workers of their own, with a model of ours as shipped, on a store.

Unless told otherwise the store is a SQLite file in a temporary directory, so no run finds what another left. What the
store costs is measured beside a service that has none to speak of: `memory:`, with a journal that is written once an
hour.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.run import Watch, WrongReplyError
from evercurrent.cli.cluster import Child, Cluster, run_cluster

MODEL_NAME = "knowledge-tracing"
ENDING_TIMEOUT_S = 0.5

NO_STORE = "memory:"
NO_JOURNAL = "[worker]\njournal_interval_ms = 3_600_000\ndead_after_ms = 14_400_000\n"


@contextmanager
def run_service(
    watch: Watch,
    num_workers: int,
    store: str | None = None,
    *,
    model: str = MODEL_NAME,
    num_reserved: int = 0,
    settings: str = "",
) -> Iterator[Cluster]:
    """A running router and workers on a store; None: SQLite in a temporary directory. The router is told of
    `num_reserved` workers more (`Cluster.start`). `settings` are further ones, as a TOML file has them.

    Raises:
        WrongReplyError: one of them ended before the bench did; with its last words.
    """
    with ExitStack() as running:
        folder = Path(running.enter_context(TemporaryDirectory(prefix="evercurrent-bench-")))
        config = folder / "evercurrent.toml"
        config.write_text(NO_JOURNAL if store == NO_STORE else settings)
        with watch.stage("start router and workers", 1) as advance:
            cluster = running.enter_context(
                run_cluster(
                    num_workers=num_workers,
                    num_reserved=num_reserved,
                    model=model,
                    store=store or f"sqlite:{folder / 'store.db'}",
                    config=config,
                )
            )
            advance()
        try:
            yield cluster
        except Exception as error:
            ended = [child.ending() for child in cluster.children.values() if _ends(child)]
            if not ended:
                raise
            raise WrongReplyError("\n".join(ended)) from error


def _ends(child: Child) -> bool:
    """Whether a process has ended or is about to: its streams break before it is gone."""
    with suppress(subprocess.TimeoutExpired):
        child.process.wait(ENDING_TIMEOUT_S)
    return child.process.returncode is not None
