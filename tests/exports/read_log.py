"""PyPI `hdrhistogram` reads a histogram log: its path as the only argument.

Prints one JSON object: by tag, the sum of all intervals as count and values.
"""

import json
import math
import sys

from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

HOUR_NS = 3_600_000_000_000

reader = HistogramLogReader(sys.argv[1], HdrHistogram(1, HOUR_NS, 2))
sums = {}
while (interval := reader.get_next_interval_histogram()) is not None:
    tag = interval.get_tag()
    if tag not in sums:
        sums[tag] = HdrHistogram(1, HOUR_NS, 2)
    sums[tag].add(interval)


def figures(histogram):
    count = histogram.get_total_count()

    def at(quantile):
        # This library rounds ranks to the nearest, others up: asks for the rank itself.
        rank = math.ceil(round(quantile * count, 6))
        return histogram.get_value_at_percentile(100 * rank / count)

    return {
        "count": count,
        "p50": at(0.5),
        "p99": at(0.99),
        "p99.9": at(0.999),
        "max": histogram.get_max_value(),
    }


print(json.dumps({tag: figures(histogram) for tag, histogram in sums.items()}))
