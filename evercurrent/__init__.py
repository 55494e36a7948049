"""evercurrent: models whose state already holds the user's last action."""

__version__ = "0.1.0"
