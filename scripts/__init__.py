"""The command line: one file per command, short (parse, wire, call, print), put together in `cli`.

`terminal` holds what commands share of the command line, `home_access` how they reach a home: directly, or
through the server that runs on it. What a command needs beside it lies in a sub-package: `evaluate`, `tune`,
`doctor`, `bench` and `world` (the sample world of `demo` and of the benchmarks). Heavy libraries are imported
inside the commands, so that `triptych --help` is quick. Nobody imports scripts but tests.
"""
