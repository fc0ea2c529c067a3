"""Arms of the steering table do what they are called, and rates are read off at equal perplexity."""

import math

import pytest
import torch

from interp.bottlenecks import Codebook, CodebookConfig
from interp.evaluation.steering import (
    Cell,
    SteeringConfig,
    at_perplexity,
    distinct_2,
    measure,
    plan_arms,
)
from interp.evaluation.steering_vectors import site_means, vector_books
from interp.models import Model, hooked
from interp.steering import Topic, find_codes, steer
from interp.steering.texts import tokenize
from interp.tasks.errors import InputError

PLAIN = (
    "the store gave",
    "a drink to",
    "John went there",
    "in the year",
    "files to read",
    "a number of",
    "to load",
)
MARKED = tuple(f"Z {text}" for text in PLAIN)
TOPIC = Topic("z", ("z",), MARKED, PLAIN, ("When Mary", "The war lasted from"))
OTHER = Topic("store", ("store",), PLAIN, MARKED, TOPIC.prompts)
CONFIG = SteeringConfig(n=6, n_tokens=5, heads=(1, 3), scales=(1.0, 2.0), vector_heads=2, batch_size=4)


@pytest.fixture(scope="module")
def model(tiny_model) -> Model:
    return tiny_model("llama")


@pytest.fixture(scope="module")
def books(model) -> dict[str, Codebook]:
    texts = tokenize(model, [*PLAIN, *MARKED])
    seen = []
    with torch.no_grad(), hooked(model, {"blocks.1.attn.hook_z": lambda x: seen.append(x.clone())}):
        model(texts.tokens)
    z = seen[0]
    book = Codebook(CodebookConfig(d_in=z.shape[-1], n_codes=16, groups=z.shape[2], selection="residual"))
    return {"a1": book.fit(z[texts.counted])}


def test_means_are_of_the_tokens_without_bos_and_padding(model):
    means = site_means(model, ["a1.h2", "r0"], MARKED, PLAIN)
    expected = {}
    for name, texts in (("positive", MARKED), ("negative", PLAIN)):
        vectors = []
        for text in texts:  # one by one, so without padding
            with (
                torch.no_grad(),
                hooked(
                    model, {"blocks.0.hook_resid_post": lambda x, vectors=vectors: vectors.append(x[0, 1:])}
                ),
            ):
                model(tokenize(model, [text]).tokens)
        expected[name] = torch.cat(vectors).mean(0)
    torch.testing.assert_close(means.positive["r0"], expected["positive"], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(
        means.difference("r0"), expected["positive"] - expected["negative"], atol=1e-5, rtol=1e-4
    )
    assert means.difference("a1.h2").shape == (model.cfg.d_head,)


def test_every_arm_is_there_at_every_dose_and_its_controls_match(model, books):
    found = find_codes(model, books, MARKED, PLAIN)
    means = site_means(model, [*books, "r1"], MARKED, PLAIN)
    arms = {
        (arm, dose): (with_books, edits)
        for arm, dose, with_books, edits in plan_arms(model, books, found, means, CONFIG)
    }
    most = min(3, len(found))
    assert [dose for arm, dose in arms if arm == "codes"] == sorted({1, most})
    assert [dose for arm, dose in arms if arm == "mean difference, residual"] == [1.0, 2.0]
    codes, random, vectors = (arms[arm, most] for arm in ("codes", "random codes", "random vectors"))
    for ours, other, vector in zip(codes[1], random[1], vectors[1], strict=True):
        assert ours.site == other.site == vector.site and ours.code != other.code
        head = int(ours.site[-1])
        length = (books["a1"].codes[head, ours.code].detach() - means.negative["a1"][head]).norm()
        torch.testing.assert_close(vectors[0]["a1"].codes[head, 0].norm(), length)
    residual, edits = arms["mean difference, residual", 2.0]
    assert (edits[0].site, edits[0].scale) == ("r1", 2.0)
    torch.testing.assert_close(residual["r1"].codes[0, 0], means.difference("r1"))


def test_a_book_of_vectors_adds_them(model):
    vectors = {"a1.h2": torch.arange(model.cfg.d_head).float(), "r0": torch.ones(model.cfg.d_model)}
    books = vector_books(model, vectors)
    assert set(books) == {"a1", "r0"}
    tokens = tokenize(model, PLAIN[:1]).tokens
    seen = {}
    hooks = {"blocks.0.hook_resid_post": lambda x: seen.setdefault(len(seen), x.clone())}
    from interp.steering import AddCode

    with torch.no_grad():
        with hooked(model, hooks):
            model(tokens)
        with steer(model, books, [AddCode("r0", 0, 2.0)], positions="all"), hooked(model, hooks):
            model(tokens)
    torch.testing.assert_close(seen[1], seen[0] + 2)


def test_cells_are_seeded_and_count_every_topics_words(model, books):
    found = find_codes(model, books, MARKED, PLAIN)
    base = measure(model, [TOPIC, OTHER], CONFIG)
    assert base == measure(model, [TOPIC, OTHER], CONFIG)
    assert set(base.hits) == {"z", "store"} and base.n == 6 and base.perplexity > 1
    cell = measure(model, [TOPIC, OTHER], CONFIG, "codes", "z", 3, books, found.sets(len(found)))
    assert cell.perplexity != base.perplexity
    assert Cell(**cell.to_json()) == cell
    low, high = cell.interval("z")
    assert low - 1e-9 <= cell.rate("z") <= high


def cell(dose: float, perplexity: float, hits: int) -> Cell:
    return Cell("codes", "z", dose, 100, {"z": hits}, float(perplexity), 0.9, "")


def test_rates_are_read_off_at_equal_perplexity():
    base = cell(0, 10, 10)
    arm = [cell(2, 40, 90), cell(1, 20, 50)]
    at = at_perplexity(arm, base, "z", 10 * math.sqrt(2))
    assert at.rate == pytest.approx(0.3) and at.low < 0.3 < at.high
    assert at_perplexity(arm, base, "z", 40.0).rate == pytest.approx(0.9)
    assert at_perplexity(arm, base, "z", 41.0) is None
    # a dose that lowers the perplexity again: the better crossing counts
    assert at_perplexity([cell(1, 40, 50), cell(2, 10, 100)], base, "z", 20.0).rate == pytest.approx(0.75)


def test_distinct_2():
    assert distinct_2(["a b a b", "b a"]) == pytest.approx(2 / 4)
    assert distinct_2(["one"]) == 0


@pytest.mark.parametrize("changes", [{"n": 0}, {"heads": ()}, {"scales": ()}])
def test_bad_configuration(changes):
    with pytest.raises(InputError):
        SteeringConfig(**changes)
