"""Keeps foreign code from being imported in place of ours.

`router` and `worker` are names that others use as well. So the working directory, which may hold anything, leaves the
import path (it comes back as its last entry when a `module:Class` model is looked up, and by then ours are imported),
and a package that still comes before ours is named before anything of it runs.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import evercurrent

OURS = ("router", "worker")


class ShadowedError(Exception):
    """Another package stands where one of ours is expected. The text names it: show it and stop."""


def drop_working_directory() -> None:
    """Takes the working directory off the import path, unless it is where we ourselves come from: then it goes last."""
    here = Path.cwd()
    found = [entry for entry in sys.path if Path(entry or ".").resolve() == here]
    keep = found[:1] if here == _package_folder("evercurrent").parent else []
    sys.path[:] = [entry for entry in sys.path if entry not in found] + keep


def check_not_shadowed() -> None:
    """Raises ShadowedError when importing `router` or `worker` would not give those beside this package."""
    root = _package_folder("evercurrent").parent
    for name in OURS:
        found = _package_folder(name)
        if found != root / name:
            raise ShadowedError(
                f"another package shadows evercurrent's `{name}`: {found}. Take its folder off PYTHONPATH, "
                f"uninstall it, or run evercurrent in a virtual environment of its own"
            )


def _package_folder(name: str) -> Path:
    if name == "evercurrent":
        return Path(evercurrent.__path__[0]).resolve()
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ShadowedError(f"evercurrent's package `{name}` is not installed: install evercurrent again")
    if spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    return Path(spec.origin or name).resolve()
