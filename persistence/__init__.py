"""Where states outlive processes: one narrow store, three implementations, and the thread that they live on.

`open_store` makes a store from a URL, `StoreThread` keeps it off the serving loop, `probe` refuses one that cannot
arbitrate. Nothing here knows of slots, journals or users: keys and bytes only.
"""

from persistence.errors import StoreDenied, StoreError, StoreMisconfigured, StoreUnavailable
from persistence.open import open_store, parse_url
from persistence.probe import probe
from persistence.store import Entry, Etag, ObjectStore, Page, Stored, list_all
from persistence.thread import StoreThread

__all__ = [
    "Entry",
    "Etag",
    "ObjectStore",
    "Page",
    "StoreDenied",
    "StoreError",
    "StoreMisconfigured",
    "StoreThread",
    "StoreUnavailable",
    "Stored",
    "list_all",
    "open_store",
    "parse_url",
    "probe",
]
