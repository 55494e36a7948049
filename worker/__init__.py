"""The worker: users' states in memory and the loop that updates them, many users a batch."""
