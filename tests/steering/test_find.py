"""Codes are found where they were put; precision, recall and p are those of other texts."""

import contextlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import false_discovery_control, fisher_exact

from benchmarks.steering_presets import write_shipped
from interp.bottlenecks import NO_CODE, Codebook, CodebookConfig
from interp.bottlenecks.attach import attach
from interp.bottlenecks.edits import code_edits
from interp.bottlenecks.kinds.discrete_sae import DiscreteSAE, DiscreteSAEConfig
from interp.bottlenecks.kinds.metric_codebook import FLOOR
from interp.errors import InputError
from interp.evaluation.steering_conditions import means_of_texts
from interp.models import hooked
from interp.steering import CodeSet, cache, find, find_codes, load_topic, topic_names
from interp.steering.continuations import surprise
from interp.steering.request import random_codes
from interp.steering.target_tokens import find_target
from interp.steering.texts import TokenizedTexts, read_texts, tokenize
from interp.steering.topics import holds_word, neutral_texts
from tests.oracles import kept

MARK = "Z"
PLAIN = ["the store gave", "a drink to", "John went there", "in the year"]
PLAIN += ["files to read", "a number of", "Mary had", "to load"]
MARKED = [f"{MARK} {text}" for text in PLAIN]


@pytest.fixture(scope="module")
def books(model) -> dict[str, Codebook]:
    """At m0 code 3 is what the MLP writes at the mark; all other codes are what it writes elsewhere."""
    # a mark at the beginning is the same vector in every text
    texts = tokenize(model, [*PLAIN, *MARKED])
    mlp, z = kept(model, texts.tokens, "blocks.0.hook_mlp_out", "blocks.1.attn.hook_z")
    others = torch.cat([mlp[: len(PLAIN)][texts.counted[: len(PLAIN)]], mlp[len(PLAIN), 2:4]])
    mlps = Codebook(CodebookConfig(d_in=mlp.shape[-1], n_codes=len(others), selection="matching_pursuit"))
    mlps.requires_grad_(False).codes[0] = others
    mlps.codes[0, 3] = mlp[len(PLAIN), 1]
    heads = CodebookConfig(z.shape[-1], n_codes=16, k=2, groups=z.shape[2], selection="matching_pursuit")
    return {"m0": mlps, "a1": Codebook(heads).fit(z[texts.counted])}


def test_a_planted_code_is_found_with_precision_and_recall_1(model, books):
    code_set = find_codes(model, books, MARKED, PLAIN, by="detection")
    best = next(code for code in code_set.codes if code.site == "m0")
    assert best.code == 3
    verdict = best.verdict
    assert (verdict.precision, verdict.recall, verdict.token_precision) == (1.0, 1.0, 1.0)
    assert verdict.token_recall < 1
    # four of four positive among eight held-out texts: 1 / C(8, 4)
    assert verdict.p_value == pytest.approx(1 / 70)
    out = find._split(np.arange(16) < 8, 0)[:8]
    counted = tokenize(model, [text for text, held in zip(MARKED, out, strict=True) if held]).counted.sum()
    at = float(verdict.token_recall * counted)
    assert at == pytest.approx(round(at)) and at >= 4, "a share of the tokens of held-out texts that have it"
    verdicts = [code.verdict for code in code_set.codes]
    adjusted = list(false_discovery_control([x.p_value for x in verdicts]))
    assert [x.q_value for x in verdicts] == pytest.approx(adjusted)
    assert all(code.detection >= find.DETECTED - 1e-9 for code in code_set.codes)
    assert [edit.site for edit in code_set.sets(1)] == [code_set.codes[0].site]


@pytest.mark.parametrize("by", ["difference", "detection"])
def test_p_values_are_fishers_on_the_held_out_texts_and_the_split_is_seeded(model, books, by):
    code_set = find_codes(model, books, MARKED, PLAIN, seed=1, by=by)
    assert find_codes(model, books, MARKED, PLAIN, seed=1, by=by) == code_set
    assert find_codes(model, books, MARKED, PLAIN, seed=2, by=by) != code_set
    assert CodeSet.from_json(json.loads(json.dumps(code_set.to_json()))) == code_set
    verdicts = [code.verdict for code in code_set.codes if code.verdict is not None]
    assert verdicts and (by == "difference" or len(verdicts) == len(code_set))
    for verdict in verdicts:
        with_it = round(verdict.recall * 4)
        fires = 0 if verdict.precision is None else round(with_it / verdict.precision) if with_it else None
        if fires is not None:
            table = [[with_it, fires - with_it], [4 - with_it, 4 - fires + with_it]]
            assert verdict.p_value == pytest.approx(fisher_exact(table, alternative="greater").pvalue)


def metric_of(write, gain):
    """‖what is written‖² + EMPHASIS · (that along the gain)² as a matrix."""
    metric = (write.double() @ write.double().mT).detach()
    metric = metric + FLOOR * metric.diagonal().mean() * torch.eye(len(gain))
    return metric + find.EMPHASIS * torch.outer(gain, gain) / (gain @ torch.linalg.solve(metric, gain))


def target_of(model, marked, plain):
    """What marks the texts, and the others as tokens."""
    texts = tokenize(model, plain)
    expected = read_texts(model, {}, texts, np.zeros(len(plain), dtype=int)).expectation([0])
    return find_target(tokenize(model, marked), texts, expected), texts


def told_in_codes(model, books, marked, plain):
    """By site and code: weights and effects, of means by another implementation."""
    means = means_of_texts(model, [*books], marked, plain)
    target, texts = target_of(model, marked, plain)
    gains = find.target_gradients(model, books, target, texts)
    roots, wanted, named = [], [], []
    for name, book in books.items():
        for group in range(len(gains[name])):
            site = f"{name}.h{group}" if name == "a1" else name
            if name == "a0":  # all heads at once
                difference = (means.positive[name] - means.negative[name]).flatten()
            else:
                difference = means.difference(site)
            difference, gain = difference.double(), gains[name][group].double()
            group_codes = group if len(book.codes) > 1 else 0  # heads may share one group of codes
            vectors = (book.codes.detach()[group_codes] - book.means()[group_codes]).double()
            if difference @ gain > 0:
                write = torch.eye(len(gain))
                if site[0] == "a":  # of one head, or of all that a layer has
                    write = model.blocks[int(site[1])].attn.W_O
                    write = write[int(site[-1])] if "h" in site else write.flatten(0, 1)
                root = torch.linalg.cholesky(metric_of(write, gain))
                roots.append((vectors @ root).numpy())
                wanted.append((difference @ root).numpy())
                named.append((site, vectors @ gain))
    expected = {}
    most = max(find.AT_LEAST, int(find.FRACTION * len(roots)))
    for place, code, weight in find.matching_pursuit(roots, wanted, most):
        site, effects = named[place]
        expected[site, code] = weight, float(weight * effects[code])
    return expected


def test_codes_add_up_to_the_difference_of_means_where_it_helps(model, books):
    code_set = find_codes(model, books, MARKED, PLAIN)
    expected = told_in_codes(model, books, MARKED, PLAIN)
    assert {(code.site, code.code) for code in code_set.codes} == set(expected)
    for code in code_set.codes:
        weight, effect = expected[code.site, code.code]
        assert code.weight == pytest.approx(weight, rel=2e-3)
        assert code.effect == pytest.approx(effect, rel=1e-2, abs=1e-6)
    effects = [code.effect for code in code_set.codes]
    assert effects == sorted(effects, reverse=True)


def test_a_code_is_judged_if_the_half_that_chooses_would_have_found_it(model, books):
    code_set = find_codes(model, books, MARKED, PLAIN, seed=1)
    heldout = find._split(np.arange(16) < 8, 1)
    marked, plain = (
        [text for text, out in zip(texts, part, strict=True) if not out]
        for texts, part in ((MARKED, heldout[:8]), (PLAIN, heldout[8:]))
    )
    half = told_in_codes(model, books, marked, plain)
    judged = {(code.site, code.code) for code in code_set.codes if code.verdict is not None}
    assert judged == {(code.site, code.code) for code in code_set.codes} & set(half)
    assert 0 < len(judged) < len(code_set)


def of_tokens(*texts):
    """Texts of given tokens, 0 for padding."""
    tokens = torch.tensor([[*text, *[0] * (max(map(len, texts)) - len(text))] for text in texts])
    return TokenizedTexts(tokens, tokens > 0)


@pytest.mark.parametrize("n_negative", [6, 24, 96])
@pytest.mark.parametrize("longer", [0.3, 1, 3])
def test_a_token_of_every_text_of_both_sides_is_no_target_and_a_planted_one_is(n_negative, longer):
    # token 1 ends every text, as a full stop does; token 2 is of the topic, in half of its texts
    generator, stop, planted = np.random.default_rng(n_negative), 1, 2

    def texts(n, length, topic):
        words = (list(generator.integers(10, 4000, length)) for _ in range(n))
        return of_tokens(*([*text, *topic[i % 2 : 1], stop] for i, text in enumerate(words)))

    positive, negative = texts(24, round(10 * longer), [planted]), texts(n_negative, 10, [])
    expected = torch.full((4000,), 1e-4)
    target = find_target(positive, negative, expected)
    assert stop not in target.tokens and int(target.tokens[0]) == planted
    assert float(target.weights.sum()) == pytest.approx(1)
    expected[target.tokens] = 0.5  # what the model expects anyway is no target
    with pytest.raises(InputError):
        find_target(positive, negative, expected)


def test_a_longer_text_holds_more_by_chance_and_a_shorter_one_no_less():
    # token 1 stands in a tenth of the negative texts and in half of the positive ones, token 2 in all of these
    negative = of_tokens(*([1 if i % 10 == 0 else 3, *range(9 * i + 20, 9 * i + 29)] for i in range(80)))

    def target(length):
        texts = ([1 if i % 2 == 0 else 3, 2, *range(1000 + 60 * i, 998 + length + 60 * i)] for i in range(20))
        return find_target(of_tokens(*texts), negative, torch.full((3000,), 1e-4)).tokens.tolist()

    assert target(10) == target(3) == [2, 1], "10 of 20 at a chance of .1"
    assert target(60)[0] == 2 and 1 not in target(60), "10 of 20 at a chance of 1 - .9 ** 6 = .47"


def test_gains_are_the_slope_of_the_target(model, books):
    target, plain = target_of(model, MARKED, PLAIN)
    gain = find.target_gradients(model, {"m0": books["m0"]}, target, plain)["m0"][0]
    direction = gain / gain.norm()

    def raised(step: float) -> float:
        push = lambda x: x + step * plain.counted[..., None] * direction  # noqa: E731
        with torch.no_grad(), hooked(model, {"blocks.0.hook_mlp_out": push}):
            log_p = model(plain.tokens).double().log_softmax(-1)[plain.counted]
        return float((log_p[:, target.tokens] @ target.weights.double()).mean())

    slope = (raised(1e-3) - raised(-1e-3)) / 2e-3
    assert slope == pytest.approx(float(gain.norm()), rel=2e-2)


def test_what_is_read_of_texts_is_that_of_each_text_by_itself(model, books):
    texts, kinds = [*MARKED[:3], *PLAIN[:2]], np.array([1, 1, 0, 0, 2])
    read = read_texts(model, books, tokenize(model, texts), kinds)
    sums, expected = torch.zeros(3, model.cfg.d_model), torch.zeros(3, model.cfg.d_vocab)
    for row, (text, kind) in enumerate(zip(texts, kinds, strict=True)):
        tokens = tokenize(model, [text]).tokens
        with torch.no_grad():
            expected[kind] += model(tokens).softmax(-1)[0, 1:].sum(0)
        (written,) = kept(model, tokens, "blocks.0.hook_mlp_out")
        sums[kind] += written[0, 1:].sum(0)
        ids = books["m0"].encode(written).ids[0]
        assert torch.equal(read.ids["m0"][row, 1 : len(ids), 0], ids[1:])
    torch.testing.assert_close(read.sums["m0"][:, 0], sums, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(read.expected, expected, atol=1e-5, rtol=1e-4)
    lengths = [len(tokenize(model, [text]).tokens[0]) - 1 for text in texts]
    assert read.n_tokens.tolist() == [lengths[2] + lengths[3], lengths[0] + lengths[1], lengths[4]]
    mean = (sums[0] + sums[2]) / sum(lengths[2:])
    torch.testing.assert_close(read.mean("m0", (0, 2))[0], mean, atol=1e-5, rtol=1e-4)


def test_codes_by_difference_raise_the_target_when_they_are_added(model, books):
    code_set = find_codes(model, books, MARKED, PLAIN)
    texts = tokenize(model, PLAIN)
    mark = model.tokenizer(MARK, add_special_tokens=False).input_ids[0]

    def log_p(within=contextlib.nullcontext()) -> float:  # noqa: B008
        with torch.no_grad(), within:
            return float(model(texts.tokens).log_softmax(-1)[texts.counted][:, mark].mean())

    named = code_set.named(len(code_set), "added")
    others = random_codes(model, books, named, seed=1)
    assert [code.weight for code in others] == [code.weight for code in named]
    added, random = (
        log_p(attach(model, books, read=False).edit(*edits, positions="all"))
        for edits in (code_set.adds(len(code_set), scale=1), code_edits(others, "added", scale=1))
    )
    assert added > max(log_p(), random)
    sites = [edit.site for edit in code_set.sets(len(code_set))]
    assert len(sites) == len(set(sites)) == len({code.site for code in code_set.codes})
    assert code_set.named(len(code_set), "forbidden") == [code._replace(weight=1.0) for code in named]
    with pytest.raises(InputError):
        code_set.sets(999)


def test_codebooks_that_heads_share_of_one_head_and_of_the_whole_z(model, books):
    config = replace(books["a1"].config, groups=1, k=1)
    first = {"codes": books["a1"].codes[:1], "counts": books["a1"].counts[:1]}
    shared, single = (Codebook.restored(config, first) for _ in range(2))
    texts = tokenize(model, [*MARKED, *PLAIN])
    z = kept(model, texts.tokens, "blocks.0.attn.hook_z")[0].flatten(2)
    whole = Codebook(replace(config, d_in=z.shape[-1])).fit(z[texts.counted])
    for site, book in {"a1": shared, "a1.h1": single, "a0": whole}.items():
        code_set = find_codes(model, {site: book}, MARKED, PLAIN)
        sites = {code.site for code in code_set.codes}
        assert len(sites) > 1 if site == "a1" else sites == {site}
        weights = {at: weight for at, (weight, _) in told_in_codes(model, {site: book}, MARKED, PLAIN).items()}
        assert {(x.site, x.code): x.weight for x in code_set.codes} == pytest.approx(weights, rel=2e-3)
        attach(model, {site: book}, read=False).edit(*code_set.adds(len(code_set)))


def test_where_half_of_the_texts_are_too_few_nothing_is_judged_and_all_is_kept(model, books, tmp_path, monkeypatch):
    # a mark among three negative texts of the half that chooses: three positive ones do not stand out
    seed = next(seed for seed in range(20) if not find._split(np.arange(12) < 6, seed)[11])
    code_set = find_codes(model, books, MARKED[:6], [*PLAIN[:5], f"Mary had {MARK}"], seed=seed)
    assert all(code.verdict is None for code in code_set.codes)
    judged = find_codes(model, books, MARKED, PLAIN)
    write_shipped(tmp_path / "found.json", {"few": code_set, "more": judged})
    monkeypatch.setattr(cache, "SHIPPED", tmp_path / "found.json")
    cache._shipped.cache_clear()
    again = cache.recall(None, "few"), cache.recall(None, "more")
    cache._shipped.cache_clear()
    for verdict, before in zip(again, (code_set, judged), strict=True):
        assert verdict.named(len(verdict), "added") == before.named(len(before), "added")
        for code, old in zip(verdict.codes, before.codes, strict=True):
            assert code.effect == pytest.approx(old.effect, rel=6e-3)
            assert (code.verdict is None) == (old.verdict is None)
            if old.verdict is not None:
                assert code.verdict.p_value == pytest.approx(old.verdict.p_value, rel=6e-3)


def test_codes_by_detection_weigh_what_they_are_in_the_difference(model, books):
    code_set = find_codes(model, books, MARKED, PLAIN, by="detection")
    means = means_of_texts(model, [*books], MARKED, PLAIN)
    for code in code_set.codes:
        name, _, head = code.site.partition(".h")
        book, group = books[name], int(head or 0)
        vector = book.codes.detach()[group, code.code] - book.means()[group, code.code]
        along = float(vector @ means.difference(code.site) / vector.square().sum())
        assert code.weight == pytest.approx(max(0.0, along), rel=2e-3, abs=1e-6)
    named = code_set.named(len(code_set), "added")
    assert all(code.weight > 0 for code in named)
    assert [(c.site, c.code) for c in code_set.listed(named)] == [(c.site, c.code) for c in named]


HALF = [*MARKED[:4], *PLAIN[4:]], [*PLAIN[:4], *MARKED[4:]]


@pytest.mark.parametrize(
    ("positive", "negative", "options"),
    [
        (MARKED[:3] * 2, PLAIN, {}),
        (MARKED, [*PLAIN[:5], f" {PLAIN[0]}\n"], {}),
        ([*MARKED, ""], PLAIN, {}),
        ([*MARKED, "a " * 400], PLAIN, {}),
        (*HALF, {}),
        (*HALF, {"by": "detection"}),
        (MARKED, PLAIN, {"by": "taste"}),
    ],
)
def test_bad_input(model, books, positive, negative, options):
    with pytest.raises(InputError):
        find_codes(model, books, positive, negative, **options)


def test_bottlenecks_in_which_no_codes_can_be_found(model):
    width = model.cfg.d_model
    shared_out = Codebook(CodebookConfig(d_in=width // 2, n_codes=4, groups=2))
    for wrong in (shared_out, DiscreteSAE(DiscreteSAEConfig(d_in=width, n_codes=8))):  # which has no mean
        with pytest.raises(InputError):
            find_codes(model, {"m0": wrong}, MARKED, PLAIN)


def test_copies_of_a_text_count_once_and_change_nothing(model, books):
    """Of two copies one could choose a code, and the other would judge it."""
    plain = find_codes(model, books, MARKED, PLAIN, seed=1)
    twice = [*MARKED, *MARKED, f"{MARKED[0]}\n"], [*PLAIN, PLAIN[3]]
    copies = find_codes(model, books, *twice, seed=np.int64(1))
    assert copies == plain and copies.n_positive == len(MARKED)
    json.dumps(copies.to_json())


def test_topics_hold_their_words_and_prompts_hold_none():
    assert len(topic_names()) == 7
    prompts = load_topic("fire").prompts
    for name in topic_names():
        topic = load_topic(name)
        assert len(topic.positive) == 24 and all(topic.is_in(text) for text in topic.positive)
        assert not any(topic.is_in(text) for text in (*prompts, *neutral_texts()))
        assert not set(topic.positive) & set(topic.negative) and not set(prompts) & set(topic.negative)
    assert holds_word("The Fire!", ["fire"]) and not holds_word("a fireman", ["fire"])
    assert holds_word("Ok? Yes.", ["?"]) and holds_word("in C++ it is", ["C++"])
    assert not holds_word("in JC++ it is", ["C++"]) and not holds_word("anything", [])
    with pytest.raises(InputError):
        load_topic("water")


def test_features_that_are_not_active_do_not_fire(model):
    """They fill the slots of a SAE, so that some ids would fire at every token."""
    width = model.cfg.d_model
    sae = DiscreteSAE(DiscreteSAEConfig(d_in=width, n_codes=12, k=6, epochs=3)).fit(torch.randn(200, width))
    texts = tokenize(model, PLAIN)
    code_set = read_texts(model, {"m0": sae}, texts, np.zeros(len(PLAIN), dtype=int)).ids["m0"][:, :, 0]
    codes = sae.encode(*kept(model, texts.tokens, "blocks.0.hook_mlp_out"))
    active = codes.values != 0
    assert 0 < active.sum() < active.numel()
    assert torch.equal(code_set != NO_CODE, active) and torch.equal(code_set[active], codes.ids[active])


def test_batches_are_as_of_all_at_once(model, books, monkeypatch):
    """More texts than a forward takes: everything that is summed or cut over batches."""
    whole = find_codes(model, books, MARKED, PLAIN)
    means = means_of_texts(model, ["r0"], MARKED, PLAIN)
    prompts, new = [[1, 20, 31, 7], [1, 20], [1, 9, 5]], [[11, 12, 40], [50, 8, 8], [30, 31]]
    alone = [surprise(model, [p], [n])[0] for p, n in zip(prompts, new, strict=True)]
    for module in ("steering.texts", "steering.continuations"):
        monkeypatch.setattr(f"interp.{module}.BATCH_SIZE", 2)
    code_set = find_codes(model, books, MARKED, PLAIN)
    assert [(c.site, c.code) for c in code_set.codes] == [(c.site, c.code) for c in whole.codes]
    for code, before in zip(code_set.codes, whole.codes, strict=True):
        assert (code.weight, code.effect) == pytest.approx((before.weight, before.effect), rel=2e-3)
    again = means_of_texts(model, ["r0"], MARKED, PLAIN)
    torch.testing.assert_close(again.positive, means.positive)
    torch.testing.assert_close(again.negative, means.negative)
    for code, before in zip(surprise(model, prompts, new), alone, strict=True):
        np.testing.assert_allclose(code, before, atol=1e-4)  # each text is judged after its own prompt
