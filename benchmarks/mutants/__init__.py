"""Mutation testing: would a test go red if this line were wrong?

mutmut and cosmic-ray write mutants to disk and start pytest anew for each, which imports torch for seconds, and some of
our tests train a model first. Here a mutant lives in a forked process alone, which has imported the libraries already:
`changes` makes mutants, `trial` tries one, `__main__` tries those of a file and keeps the record.
"""
