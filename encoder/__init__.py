"""Views of a user, their alignment and fusion, and the text encoder."""
