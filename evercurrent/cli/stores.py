"""The store that a command is told to read."""

from __future__ import annotations

from evercurrent.cli.errors import CommandError
from evercurrent.settings import SettingsError
from persistence.errors import StoreMisconfigured
from persistence.open import MemoryTarget, parse_url
from persistence.sqlite import SqliteTarget


def check_url(url: str, may_be_new: bool = False) -> None:
    """See that a store can be there. Raises SettingsError or CommandError."""
    try:
        target = parse_url(url)
    except StoreMisconfigured as error:
        raise SettingsError(f"--store: {error}") from error
    if isinstance(target, MemoryTarget):
        raise SettingsError("--store: a store in memory is its worker's own: nobody else can read it")
    if isinstance(target, SqliteTarget) and not may_be_new and not target.path.exists():
        raise CommandError(f"there is no store at {target.path}")
