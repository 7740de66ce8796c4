"""Clients of other makes, and proxies, against the running service: which of them gets what it asked for.

A client is a program of its own, `PROGRAM TARGET FOLDER VERB NUMBER` (`asked.py` says what each verb is), so that a
client in JavaScript or C++ is checked by the same code as one in Python.
"""
