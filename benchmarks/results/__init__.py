"""Figures of encoders and scores: recipes reproduced, OOD detection, density, calibration, copies, monitor."""
