"""The service that the benches measure: a router and workers of their own, with a model of ours as shipped."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from bench.run import Watch, WrongReplyError
from evercurrent.cli.cluster import Child, Cluster, run_cluster

MODEL_NAME = "knowledge-tracing"
ENDING_TIMEOUT_S = 0.5


@contextmanager
def run_service(watch: Watch, num_workers: int) -> Iterator[Cluster]:
    """A running router and workers.

    Raises:
        WrongReplyError: one of them ended before the bench did; with its last words.
    """
    with ExitStack() as running:
        with watch.stage("start router and workers", 1) as advance:
            cluster = running.enter_context(run_cluster(num_workers=num_workers, model=MODEL_NAME))
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
