"""How much of the difference of means codes tell, by how many there are.

    python -m benchmarks.steering_told [--topics dragon,fire]    # two minutes of a core a topic, three with Gemma
    python -m benchmarks.steering_told --model gemma-3-270m --codebooks runs/gemma-k1

Of each topic: the heads at which the difference of means raises the target, by how much it does to first order, in nats
a token, and by how much codes do, as many as ``find_codes`` takes and more.
"""

import torch

from benchmarks.common import arguments, print_table
from benchmarks.steering import gains_of_texts, helpful_heads
from interp import DEFAULT_MODEL, Codebooks, find_codes, load_model
from interp.evaluation.steering_conditions import means_of_texts
from interp.models import parse_site
from interp.progress import bar
from interp.steering import find, load_topic, topic_names

SHARES = (find.FRACTION, 2.0, 8.0)
"""Codes for every head that helps; the first is what is used."""


def main() -> None:
    given = arguments(__doc__, model=DEFAULT_MODEL, codebooks="smollm2-135m-instruct-k1", topics=str)
    model = load_model(given.model)
    books = Codebooks.from_pretrained(given.codebooks, model)
    rows = []
    names = given.topics.split(",") if given.topics else topic_names()
    with bar("topics", len(names)) as done:
        for name in names:
            topic = load_topic(name)
            means = means_of_texts(model, [*books], topic.positive, topic.negative)
            gains = gains_of_texts(model, books, topic)
            helpful = helpful_heads(model, means, gains)
            raised = sum(float(by @ _at(gains, site)) for site, by in helpful.items())
            row = []
            for share in SHARES:
                find.FRACTION = share
                codes = find_codes(model, books, topic.positive, topic.negative).codes
                effect = sum(code.effect for code in codes)
                row.append(f"{len(codes)}: {effect:.2f}, {effect / raised:.0%}")
            rows.append((name, len(helpful), f"{raised:.2f}", *row))
            done(1)
    columns = (f"codes, {share:g} a head" for share in SHARES)
    print_table(("topic", "heads", "means", *columns), rows)


def _at(gains: dict[str, torch.Tensor], site: str) -> torch.Tensor:
    return gains[site.partition(".")[0]][parse_site(site).head]


if __name__ == "__main__":
    main()
