"""Measuring the service while it runs."""

from evercurrent.telemetry.latency import LatencyWindow, Summary

__all__ = ["LatencyWindow", "Summary"]
