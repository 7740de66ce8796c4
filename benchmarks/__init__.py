"""Commands that print numbers: the whole line (`line`), and what performance is measured with."""
