"""The command line: `evercurrent`, or `python -P -m evercurrent.cli`."""

from evercurrent.cli.app import main

__all__ = ["main"]
