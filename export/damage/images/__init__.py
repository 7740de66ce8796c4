"""Damage done to images: one file a kind."""
