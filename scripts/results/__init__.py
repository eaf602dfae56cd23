"""make results: every figure of docs/results.md, made at one commit, resumed where it was cut off.

`plan` says which data sets there are and which commands of `triptych` make their figures; `run` runs those,
each in a process of its own, and marks what is done; `markdown` writes the tables. `__main__` is the command:

    python -m scripts.results DATA RESULTS
"""
