"""Tests of what measures the service."""
