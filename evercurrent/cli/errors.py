"""What ends a command.

CommandError           it failed: exit code 1
└── ClusterError       a child process did not start, run or end as it should (cluster.py)
ShadowedError          another package stands in place of ours: exit code 2 (imports.py)
SettingsError          what was asked cannot be: exit code 2 (evercurrent/settings.py)
"""

from __future__ import annotations


class CommandError(Exception):
    """A command could not do what was asked. The text says why and is all that is shown."""
