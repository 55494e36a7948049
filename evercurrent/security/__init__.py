"""Who may call what, over which connections (docs/security.md)."""
