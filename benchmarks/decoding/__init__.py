"""Decoding measured: its cost and memory, files of other makers, damaged files."""
