"""What the server tells of itself: metrics, and the monitor of its scores."""
