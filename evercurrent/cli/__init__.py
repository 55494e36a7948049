"""The command line: `evercurrent`, or `python -P -m evercurrent.cli`."""

from evercurrent.cli.entry import main

__all__ = ["main"]
