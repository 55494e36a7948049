"""Tests of the worker: engine, inbox, sessions, slab, guard, validation."""
