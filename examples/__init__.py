"""Worked uses: each trains small, serves through a router and two workers on this machine, and says what came of it."""
