"""Circuits run alone: every kind of ablation against a way of its own, and what must not depend on the kind."""

import numpy as np
import pytest
import torch

from interp.activations.metric import task_metric
from interp.errors import InputError
from interp.evaluation.ablation import KINDS, Ablator, all_or_none
from interp.models import has_mlps
from interp.models.sites import parse_site
from interp.planted.models import load_planted_model, planted_truth
from interp.planted.tasks import load_planted_task
from tests.ablated import ablated_metric
from tests.pairs import random_pairs

FAMILIES = ("gpt2", "pythia", "llama", "gemma3")


def _pairs(model, lengths=(9,), n=6):
    return random_pairs(model.cfg.d_vocab, n=n, lengths=lengths)


def _masks(model, n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, model.cfg.n_layers, model.cfg.n_heads)) < 0.5


def _one_by_one(model, pair, metric: str, keep, fill, keep_mlps=None) -> float:
    """One prompt, one circuit, the library's own hooks; ``fill`` gives (layer, kind) -> replacement."""

    def heads(layer):
        def hook(z, hook=None):  # noqa: ARG001
            z = z.clone()
            for head in np.flatnonzero(~keep[layer]):
                z[:, :, head] = fill(layer, "z")[..., head, :]
            return z

        return hook

    hooks = [(f"blocks.{layer}.attn.hook_z", heads(layer)) for layer in range(model.cfg.n_layers)]
    if keep_mlps is not None:
        for layer in np.flatnonzero(~keep_mlps):
            replacement = fill(layer, "mlp")
            hooks.append(
                (f"blocks.{layer}.hook_mlp_out", lambda x, hook=None, r=replacement: r.expand_as(x).clone())  # noqa: ARG005
            )
    with torch.no_grad():
        logits = model.run_with_hooks(torch.tensor([pair.clean_tokens]), fwd_hooks=hooks)
    return task_metric(logits[:, -1], [pair], metric).item()


def _corrupt_cache(model, pair):
    with torch.no_grad():
        return model.run_with_cache(torch.tensor([pair.corrupt_tokens]))[1]


def _name(layer: int, kind: str) -> str:
    return f"blocks.{layer}.attn.hook_z" if kind == "z" else f"blocks.{layer}.hook_mlp_out"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_kind_agrees_with_one_prompt_and_one_circuit_at_a_time(tiny_model, family, kind):
    model = tiny_model(family)
    pairs = _pairs(model, lengths=(9, 7, 9))
    keep = _masks(model, 3)
    keep_mlps = np.array([[True, False], [False, True], [False, False]])
    caches = [_corrupt_cache(model, pair) for pair in pairs]

    def fill_for(i):
        def fill(layer, part):
            own = caches[i][_name(layer, part)]
            if kind == "zero":
                return torch.zeros_like(own)
            if kind == "resample":
                return own
            same = [c[_name(layer, part)][0] for c in caches if c[_name(layer, part)].shape == own.shape]
            if kind == "mean-by-position":
                return torch.stack(same).mean(0)
            return torch.cat([c[_name(layer, part)][0] for c in caches]).mean(0).expand_as(own)

        return fill

    for mlps in (None, keep_mlps):
        found = ablated_metric(model, pairs, keep, kind, keep_mlps=mlps, batch_size=4)
        expected = [
            [
                _one_by_one(
                    model, pair, pairs.metric, keep[c], fill_for(i), None if mlps is None else mlps[c]
                )
                for i, pair in enumerate(pairs)
            ]
            for c in range(3)
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_keeping_everything_is_the_clean_model(tiny_model, kind):
    model = tiny_model("llama")
    pairs = _pairs(model)
    ablator = Ablator(model, pairs, kind)
    shape = ablator.shape
    everything = ablator.metric(all_or_none(shape), np.array([[False] * shape[0], [True] * shape[0]]))[1]
    np.testing.assert_allclose(everything, ablator.metric_clean, rtol=0, atol=1e-6)


def test_nothing_kept_with_resample_is_the_clean_embedding_and_the_corrupt_runs_writing(tiny_model):
    """An oracle without hooks on heads: the final residual stream is put together by hand."""
    model = tiny_model("llama")
    pairs = _pairs(model)
    n_layers = model.cfg.n_layers
    found = ablated_metric(
        model,
        pairs,
        np.zeros((1, n_layers, model.cfg.n_heads), dtype=bool),
        keep_mlps=np.zeros((1, n_layers), dtype=bool),
    )[0]
    last = f"blocks.{n_layers - 1}.hook_resid_post"
    for i, pair in enumerate(pairs):
        corrupt = _corrupt_cache(model, pair)
        with torch.no_grad():
            clean = model.run_with_cache(torch.tensor([pair.clean_tokens]))[1]
            resid = clean["blocks.0.hook_resid_pre"] + corrupt[last] - corrupt["blocks.0.hook_resid_pre"]
            logits = model.run_with_hooks(
                torch.tensor([pair.clean_tokens]),
                fwd_hooks=[(last, lambda x, hook=None, r=resid: r)],  # noqa: ARG005
            )
        expected = task_metric(logits[:, -1], [pair], pairs.metric).item()
        assert found[i] == pytest.approx(expected, abs=1e-4)


def test_nothing_kept_with_resample_is_the_corrupt_run_where_both_end_alike(tiny_model):
    """Only attention moves anything between positions, so at END the MLPs see what they saw in the corrupt run."""
    model = tiny_model("llama")
    ablator = Ablator(model, _pairs(model))
    nothing = all_or_none(ablator.shape)[:1]
    for mlps in (None, nothing[:, :, 0]):
        np.testing.assert_allclose(ablator.metric(nothing, mlps)[0], ablator.metric_corrupt, atol=1e-5)
    zeroed = Ablator(model, _pairs(model), "zero")
    assert np.abs(zeroed.metric(nothing) - zeroed.metric(nothing, nothing[:, :, 0])).max() > 1e-3


def test_kinds_differ_where_they_should_and_only_there(tiny_model):
    model = tiny_model("gpt2")
    pairs = _pairs(model, lengths=(9,))
    nothing = all_or_none((model.cfg.n_layers, model.cfg.n_heads))[:1]
    values = {kind: ablated_metric(model, pairs, nothing, kind)[0] for kind in KINDS}
    for a in KINDS:
        for b in KINDS:
            if a < b:
                assert np.abs(values[a] - values[b]).max() > 1e-2, (a, b)
    # one pair: its mean by position is its own corrupt value; two of different lengths as well
    for lengths, n in (((9,), 1), ((9, 7), 2)):
        few = _pairs(model, lengths=lengths, n=n)
        by_position, resampled, mean = (
            ablated_metric(model, few, nothing, kind)[0] for kind in ("mean-by-position", "resample", "mean")
        )
        np.testing.assert_allclose(by_position, resampled, atol=1e-5)
        assert np.abs(mean - resampled).max() > 1e-3


def test_the_planted_circuit_alone_does_the_task_and_all_others_are_idle():
    name = "planted-induction"
    model = load_planted_model(name)
    pairs = load_planted_task(name).sample(model.tokenizer, 16, 0)
    circuit = np.zeros((model.cfg.n_layers, model.cfg.n_heads), dtype=bool)
    for text in planted_truth(name).heads:
        site = parse_site(text)
        circuit[site.layer, site.head] = True
    ablator = Ablator(model, pairs)
    empty, full, alone, rest = ablator.metric(
        np.stack([*all_or_none(circuit.shape), circuit, ~circuit])
    ).mean(1)
    assert alone == pytest.approx(full, rel=0.01)
    assert rest == pytest.approx(empty, abs=0.01 * full)
    assert abs(empty) < 0.05 * full


def test_circuits_given_twice_run_once_and_batches_do_not_matter(tiny_model):
    model = tiny_model("pythia")
    pairs = _pairs(model, lengths=(9, 7))
    keep = _masks(model, 4)
    ablator = Ablator(model, pairs)
    before = ablator.forwards
    twice = ablator.metric(np.concatenate([keep, keep[::-1]]))
    assert ablator.forwards - before <= 4 * len(pairs)
    np.testing.assert_array_equal(twice[:4], twice[:3:-1])
    np.testing.assert_allclose(twice[:4], ablated_metric(model, pairs, keep, batch_size=1), atol=1e-5)
    seen = []
    ablator.metric(np.concatenate([keep, keep]), progress=seen.append)
    assert sum(seen) == 8 * len(pairs)


def test_circuits_that_keep_no_early_head_begin_where_the_empty_one_is(tiny_model):
    for family in FAMILIES:
        model = tiny_model(family)
        pairs = _pairs(model, lengths=(9, 7))
        late = np.zeros((3, model.cfg.n_layers, model.cfg.n_heads), dtype=bool)
        late[1, -1, 0] = late[2, -1, 1] = True
        for kind in KINDS:
            ablator = Ablator(model, pairs, kind)
            before = ablator.forwards
            alone = ablator.metric(late)
            # one run of the empty circuit, and half of the two-layer model a circuit
            assert ablator.forwards - before == (1 + 3 / 2) * len(pairs)
            early = np.concatenate(
                [late, np.ones_like(late[:1])]
            )  # together with one that begins at the bottom
            np.testing.assert_allclose(Ablator(model, pairs, kind).metric(early)[:3], alone, atol=1e-5)


def test_the_model_is_left_as_it_was(tiny_model):
    model = tiny_model("llama")
    pairs = _pairs(model)
    before = Ablator(model, pairs).metric_clean
    ablated_metric(model, pairs, _masks(model, 2))
    np.testing.assert_array_equal(before, Ablator(model, pairs).metric_clean)


def test_bad_input_is_said_in_one_line(tiny_model):
    model = tiny_model("gpt2")
    pairs = _pairs(model)
    good = _masks(model, 2)
    with pytest.raises(InputError, match="ablation 'noise': choose resample, mean"):
        ablated_metric(model, pairs, good, "noise")
    with pytest.raises(InputError, match="the model has 2 layers of 3 heads"):
        ablated_metric(model, pairs, np.ones((2, 3, 3), dtype=bool))
    planted = load_planted_model("planted-induction")
    assert not has_mlps(planted)
    task_pairs = load_planted_task("planted-induction").sample(planted.tokenizer, 2, 0)
    with pytest.raises(InputError, match="no MLPs"):
        ablated_metric(
            planted, task_pairs, np.ones((1, 3, 6), dtype=bool), keep_mlps=np.ones((1, 3), dtype=bool)
        )
