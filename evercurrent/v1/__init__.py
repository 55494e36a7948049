"""Stubs generated from `protos/evercurrent/v1` by `make protos`; never edited by hand."""
