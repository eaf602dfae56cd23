"""The report as one HTML file: its charts, its tables, and nothing from elsewhere."""

import re

from scripts.evaluate.page import page_html
from tests.charts.reports import report_with, whole_report


def test_the_page_names_nothing_that_is_not_in_it_and_escapes_what_it_shows() -> None:
    page = page_html(report_with(), "<pre>tables</pre>")
    assert re.findall(r"""(?:src|href)=["'](?!#)[^"']*""", page) == []
    assert "url(http" not in page
    assert "@import" not in page
    assert "<b>mine</b>" not in page
    assert "EASE" in page
    assert page.count('role="img"') == 4  # beside others, by view, and two panels by history
    assert "<pre>tables</pre>" in page


def test_each_link_leads_to_a_section() -> None:
    page = page_html(whole_report(), "")
    targets = re.findall(r'href="#([^"]*)"', page)
    assert len(targets) == 9
    assert all(f'<section class="c-chart" id="{one}"' in page for one in targets if one != "tables")
