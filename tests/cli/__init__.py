"""Tests of the settings and the command line."""
