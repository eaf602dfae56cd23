"""What of the documents is made by programs: `python -m scripts.documents --help`.

`api_page` writes docs/api.md from the comments of the proto, `diagrams` and `pictures` draw what lies in
docs/images/, `pages` runs the code of a page and notes what it prints, `notebook` executes the notebook, and
`site` fits the site's generator (mkdocs) to the repository.
"""
