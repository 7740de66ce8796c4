"""The servers that ours is measured beside, each in a throwaway environment under build/peers, never a dependency."""
