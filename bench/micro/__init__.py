"""Micro-benchmarks of pure parts, by pytest-benchmark: `make bench-micro`."""
