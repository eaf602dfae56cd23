"""A scrape of a running server, read by the official parser."""

import json
import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from store.home import Home


class Scrape:
    """The samples of one scrape."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))

    def samples(self) -> Iterator[Sample]:
        for family in self.families:
            yield from family.samples

    def value(self, name: str, **labels: str) -> float:
        """The sum of all series of a name that have these labels."""
        found = [
            sample.value
            for sample in self.samples()
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert found, f"no series {name} {labels}"
        return sum(found)

    def label(self, name: str, label: str) -> list[str]:
        return sorted({sample.labels[label] for sample in self.samples() if sample.name == name})


def scrape(home: Home) -> Scrape:
    """Scrape the server that server.json names."""
    url = json.loads(home.server_file.read_text("utf-8"))["metrics"]
    with urllib.request.urlopen(url, timeout=60) as reply:  # noqa: S310  # our own
        assert reply.status == 200
        return Scrape(reply.read().decode())
