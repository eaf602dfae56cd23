"""The query flow: subject, raw views, query vector, search, ranking, explanation."""
