"""What the server reports of itself: metrics, and the monitor of its scores."""
