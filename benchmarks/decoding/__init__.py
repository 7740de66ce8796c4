"""Decoding of images and sounds: cost and memory, test files of other projects, damaged files."""
