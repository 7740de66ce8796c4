"""Damage done to sounds: one file a kind."""
