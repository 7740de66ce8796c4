"""Who may call, and how much: bearer tokens."""
