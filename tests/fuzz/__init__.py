"""Hostile traffic against a real router and worker, and the checks that it harms nobody."""
