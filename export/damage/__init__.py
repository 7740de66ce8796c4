"""Usual rows, damaged on purpose: what a detector sees of them says how much it is worth on these data.

No real fault and no out-of-distribution set is looked at (docs/adr/0025).
"""

from export.damage.damage import KINDS_OF_IMAGES, KINDS_OF_SOUNDS, Damaged, damage

__all__ = ["KINDS_OF_IMAGES", "KINDS_OF_SOUNDS", "Damaged", "damage"]
