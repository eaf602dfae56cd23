"""`triptych bench serve`: a server of ours under load, beside an empty gRPC method in the same run.

`work` makes the requests, `callers` sends them from processes of their own (as fast as answers come, or at a
rate), `h2load` lets the program of that name do it. `servers` starts ours and the empty method
(`empty_method`) and reads what processor time they take; `bare_search` times FAISS alone. `measure` lets the
two take turns, `ratios` compares them, and `command` is the command line.
"""
