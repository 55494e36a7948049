"""What can go wrong with a store, and with what it holds.

    StoreError
    ├── StoreUnavailable     it may pass by itself: try again with backoff
    ├── StoreDenied          credentials or rights: an operator acts
    ├── StoreMisconfigured   no such bucket or file, a store that breaks the contract: an operator acts
    ├── Damaged              what is stored is not what was written: an operator acts
    ├── SchemaMismatch       a state of another model than is served: an operator acts
    ├── VersionExists        another model is registered under that name
    └── Moved                the control object of the models is not at the revision named

A lost race is no error: conditional writes answer None. Each carries `maybe_done`: the write may have happened, or may
yet happen, so read back before you conclude anything. A write that was cancelled is in doubt in the same way.
"""

from __future__ import annotations

from evercurrent.errors import EvercurrentError


class StoreError(EvercurrentError):
    """A call to a store failed. `maybe_done`: it was a write and may have happened, or may yet; False is a proof."""

    def __init__(self, message: str, *, maybe_done: bool = False) -> None:
        super().__init__(f"{message}; it may have happened: read back" if maybe_done else message)
        self.maybe_done = maybe_done


class StoreUnavailable(StoreError):
    """The store did not answer, not in time, or that it cannot now. Try again with backoff."""


class StoreDenied(StoreError):
    """The store refuses these credentials, or there are none. Trying again does not help."""


class StoreMisconfigured(StoreError):
    """The store cannot be used as it is set up. The text names what is wrong. Trying again does not help."""


class Damaged(StoreError):
    """An object is there and is not what was written, or of a format that this release does not know.

    Reading it again does not help.
    """


class SchemaMismatch(StoreError):
    """A stored state belongs to another model than the one that is served. Serve that one, or migrate."""


class VersionExists(StoreError):
    """Another model is registered under that version's name. Versions never change: take another name."""


class Moved(StoreError):
    """The control object of the models is at another revision than was named: look, and ask again."""
