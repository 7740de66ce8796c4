"""Stubs generated from `protos/latentserve/v1` by `make protos`; never edited by hand."""
