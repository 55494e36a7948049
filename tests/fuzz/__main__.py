"""Send hostile frames to a router and a worker, and check that nobody is harmed by them."""

from __future__ import annotations

import argparse
import sys

from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn

from tests.fuzz.run import Report, fuzz

FAULTS_SHOWN = 20


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--frames", type=int, default=20_000, help="how many (default 20,000)")
    parser.add_argument("--seed", type=int, default=1, help="of all that is sent (default 1)")
    options = parser.parse_args()
    with Progress(*Progress.get_default_columns(), MofNCompleteColumn(), TimeElapsedColumn()) as progress:
        task = progress.add_task("fuzzing", total=options.frames)
        report = fuzz(options.frames, options.seed, lambda sent: progress.advance(task, sent))
    _show(report)
    for fault in report.faults[:FAULTS_SHOWN]:
        print(f"broken: {fault}", file=sys.stderr)
    return 1 if report.faults else 0


def _show(report: Report) -> None:
    for status, num in sorted(report.statuses.items()):
        print(f"{num:8,} {status}")
    for name, rss_mib in report.rss_mib.items():
        print(f"{name}: resident {', '.join(map(str, rss_mib))} MiB (before, at half, at the end, and idle)")
    print(
        f"{report.num_frames:,} frames in {report.num_calls:,} calls and {report.num_connections:,} connections, seed "
        f"{report.seed}: {len(report.faults)} faults; {report.num_honest:,} honest updates; {report.duration_s:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
