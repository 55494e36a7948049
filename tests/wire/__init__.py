"""Tests of the layouts of events and results."""
