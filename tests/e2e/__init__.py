"""Tests of router and worker together, over real gRPC."""
