"""Cells of steering beside each other, by rates known by hand."""

import numpy as np
import pytest

from interp.evaluation.steering import BASE, WRONG, SteeringCell, steering_table

TOPICS = ("fire", "baby", "slide")


def _cell(topic: str | None, arm: str, **rates: float) -> SteeringCell:
    held = {name: (np.arange(10) < 10 * rates.get(name, 0.0)).tolist() for name in TOPICS}
    return SteeringCell(arm, topic, 1.0, held, 5.0, 0.5, "")


@pytest.fixture
def table():
    cells = {
        ("fire", "codes"): _cell("fire", "codes", fire=0.9, slide=0.3),
        ("baby", "codes"): _cell("baby", "codes", baby=0.7, fire=0.2),
        ("fire", "random codes"): _cell("fire", "random codes", fire=0.1),
        ("slide", "random codes"): _cell("slide", "random codes", slide=0.4),
    }
    return steering_table(TOPICS, _cell(None, BASE, fire=0.1, baby=0.1), cells, n_prompts=5)


def test_each_topic_is_beside_the_base_and_the_next_topics_codes(table):
    rates = {(row.topic, row.arm): row.rate for row in table.by_topic}
    assert rates == pytest.approx(
        {
            ("fire", BASE): 0.1,
            ("fire", "codes"): 0.9,
            ("fire", "random codes"): 0.1,
            ("fire", WRONG): 0.2,  # the codes of baby, counted for words of fire
            ("baby", BASE): 0.1,
            ("baby", "codes"): 0.7,
            ("slide", BASE): 0.0,
            ("slide", "random codes"): 0.4,
            ("slide", WRONG): 0.3,  # those of the first: topics are a ring
        }
    )
    less = {(row.topic, row.arm): row.less and row.less.rate for row in table.by_topic}
    assert less["fire", WRONG] == pytest.approx(0.7) and less["fire", "codes"] is None
    assert less["slide", "random codes"] is None  # codes were not run there


def test_means_are_of_topics_that_have_the_arm_and_codes(table):
    arms = {row.arm: row for row in table.by_arm}
    assert list(arms) == [BASE, "codes", "random codes", WRONG]
    assert arms["codes"].topics == ("fire", "baby") and arms["codes"].rate.rate == pytest.approx(0.8)
    assert (arms["codes"].less, arms["codes"].error) == (None, None)
    assert arms["random codes"].topics == ("fire",) and arms["random codes"].error is None
    assert arms["random codes"].codes.rate == pytest.approx(0.9)
    assert arms[BASE].less.rate == pytest.approx(0.7)
    assert arms[BASE].error == pytest.approx(np.std([0.8, 0.6], ddof=1) / np.sqrt(2))
