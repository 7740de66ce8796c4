"""The calls: messages in, messages out, whichever transport brings them. Knows no network."""
