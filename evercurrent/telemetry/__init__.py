"""Measuring the service while it runs."""

from evercurrent.telemetry.latency import Distribution, LatencyWindow, Summary

__all__ = ["Distribution", "LatencyWindow", "Summary"]
