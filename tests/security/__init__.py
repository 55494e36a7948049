"""Tests of who may call what: with certificates and tokens made here."""
