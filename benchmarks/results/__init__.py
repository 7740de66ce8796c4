"""Figures about encoders and scores: recipes reproduced, detection, calibration, the monitor."""
