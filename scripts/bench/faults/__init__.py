"""`triptych bench faults`: what is left of a home, and of answers, after kills and swaps.

`run` goes through the stages. `commands` kills commands that write, `server_kills` a server amid writes;
`home_checks` looks at what is left. `swap` changes the index that serves, `process_kills` kills processes of
a server that has several, and `stale` asks right after it has written; `watchers` are the processes that ask
meanwhile and check every answer.
"""
