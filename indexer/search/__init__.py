"""The search of an index, exact or through FAISS.

`search.Searchable` takes candidates of the main part, drops what the filter and the exclusions mask, and
merges the appended rows. Candidates come from `exact`, which compares vectors, or from `ann`, FAISS with
tuned search parameters; `exact.scores_of` computes every score that is returned. `gpu` puts FAISS on graphics
cards, and `filter_cache` remembers which rows a filter allows.
"""
