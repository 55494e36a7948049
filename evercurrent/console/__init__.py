"""The web console: what `evercurrent top` shows, over time, in a browser."""
