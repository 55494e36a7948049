"""Tests of the router: ring, session table, routing core, requests and replies."""
