"""Code of pages is run as a reader would run it, and what it prints is put where the page shows it."""

from pathlib import Path

import pytest

from scripts.documents.pages import PageError, PageRun, blocks, with_outputs

PAGE = """# A page

```sh
echo one > file; cat file
```

```text
old
```

Text, and `code`.

```python
from pathlib import Path

n = 6 * 7
```

```python
print(Path("file").read_text().strip(), n)
```

```text
```
"""


def test_blocks_run_in_order_in_one_folder_and_share_names(tmp_path: Path) -> None:
    with PageRun(tmp_path) as run:
        printed = run.run(PAGE)
    assert [(block.language, said) for block, said in printed] == [
        ("sh", "one\n"),
        ("python", ""),
        ("python", "one 42\n"),
    ]
    done = with_outputs(PAGE, printed)
    assert [block.code for block in blocks(done) if block.language == "text"] == ["one\n", "one 42\n"]
    assert done.replace("```text\none\n```", "```text\nold\n```").replace("one 42\n", "") == PAGE
    assert with_outputs(done, printed) == done


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("```sh\necho so far; false\n```\n", "so far"),
        ("```python\nassert 1 == 2, 'they differ'\n```\n", "AssertionError: they differ"),
        ("```sh\npython -c 'raise SystemExit(3)' --port 1 &\n```\n", "this block failed"),
    ],
)
def test_a_block_that_fails_is_shown_with_what_it_said(tmp_path: Path, page: str, said: str) -> None:
    with PageRun(tmp_path) as run, pytest.raises(PageError, match=said):
        run.run(page)


def test_what_is_left_running_is_reached_by_its_port_and_ends_with_the_page(tmp_path: Path) -> None:
    (tmp_path / "said.txt").write_text("hello")
    (tmp_path / "listen.py").write_text(
        "import http.server as h, sys\n"
        "h.test(h.SimpleHTTPRequestHandler, port=int(sys.argv[2]), bind='127.0.0.1')\n"
    )
    page = (
        "```sh\npython listen.py --port 8123 &\n```\n"
        "```python\nfrom urllib.request import urlopen\n"
        "print(urlopen('http://127.0.0.1:8123/said.txt').read().decode())\n```\n"
    )
    with PageRun(tmp_path) as run:
        assert run.run(page)[-1][1] == "hello\n"
        assert run.ports[8123] != 8123
        (process,) = run._running
    assert process.returncode is not None
