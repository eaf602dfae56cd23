"""How far those who ask now are from those whom the model was trained on, as metrics."""

from collections.abc import Iterator, Sequence

from prometheus_client.core import GaugeMetricFamily, Metric

from encoder.drift.stability import BINS, QUANTITIES, stability_index
from server.telemetry.figures import Reading

LEAST_SAMPLES = 500  # people: with fewer, chance alone moves ten bins by 0.02 and more


def drift_metrics(
    labels: tuple[str, ...], homes: Sequence[tuple[tuple[str, ...], Sequence[Reading]]]
) -> Iterator[Metric]:
    """Yield the metrics of drift; a quantity has none until enough people were sampled.

    Args:
        labels: names of labels that tell homes apart.
        homes: their values for each home, and its numbers from all processes.
    """
    drift = GaugeMetricFamily(
        "triptych_drift_psi",
        "Population stability index of those who ask now against those whom the model was trained on.",
        labels=(*labels, "quantity"),
    )
    people = GaugeMetricFamily(
        "triptych_drift_samples",
        "People who were asked for of late, as far as they are remembered.",
        labels=labels,
    )
    for home, readings in homes:
        samples = 0.0
        for place, quantity in enumerate(QUANTITIES):
            bins = slice(place * BINS, (place + 1) * BINS)
            weights, expected = (
                [sum(some) for some in zip(*(one.of(name)[bins] for one in readings), strict=True)]
                for name in ("drift_weights", "drift_expected")
            )
            samples = sum(weights)
            if samples >= LEAST_SAMPLES and any(expected):
                drift.add_metric((*home, quantity), stability_index(weights, expected))
        people.add_metric(home, samples)
    yield drift
    yield people
