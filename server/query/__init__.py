"""Queries: from a subject to its candidates, without protobuf.

`retriever` tells the flow: `query` has the records of a query and its answer, `subject_views` puts together
the raw views of a subject from a `snapshot` (the index and models that serve together), the user tower
encodes them, the index is searched, and the page is chosen, by `diversity` where a query wants that.
`explain` divides the shares of a score among events, texts and friends; `user_search` finds users instead of
items.
"""
