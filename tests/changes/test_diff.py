"""A change that was written into the weights is found where it was written, counted exactly, and taken back."""

import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import binomtest, false_discovery_control

import interp
from interp.bottlenecks.base import NO_CODE
from interp.bottlenecks.edits import SetCode
from interp.changes import Diff, diff
from interp.changes.counts import count_codes, only_in
from interp.changes.listing import ChangedCode
from interp.changes.reading import Reading, first_difference, read_all, read_batch
from interp.changes.undo import _share, edited, means_back, put_in, set_back
from interp.changes.words import codes_at_words
from interp.errors import InputError
from interp.executor import SERIAL, Workers
from interp.interventions.between_models import Outputs, kl_between, patched_log_p
from interp.interventions.patch import patch_hooks
from interp.models import load_model, parse_site
from interp.models.save import save_model
from interp.models.sites import components
from interp.text import load_text
from tests.oracles import kept

KEYS = set(Diff.__dataclass_fields__)
ASKED_FOR = {"codes", "contexts", "sites", "kl", "n_tokens", "seconds"}
SENTENCE = "Mary John store drink war year files code load self gave lasted from the to of a"
WORDS = SENTENCE.split()
REST = ("", "", 0, 9, "mary", 9, 9, 0.0, 50.0, 0.01, 5, 0)
"""Of a changed code whose usual one in the base is 5."""


def _text(folder, n=400):
    rng = np.random.default_rng(0)
    path = folder / "text.txt"
    path.write_text("\n\n".join(" ".join(rng.choice(WORDS, 24)) + f" {i}" for i in range(n)))
    return str(path)


@pytest.fixture(scope="module")
def case(tiny_model_folder, tmp_path_factory):
    """A base, a form of it whose head a0.h2 attends otherwise, text, and codebooks."""
    folder = tmp_path_factory.mktemp("diff")
    base, tuned = (load_model(str(tiny_model_folder("llama"))) for _ in range(2))
    with torch.no_grad():
        width = base.cfg.d_head
        weight = tuned.original_model.model.layers[0].self_attn.q_proj.weight
        weight[2 * width : 3 * width] *= -1
    save_model(tuned, folder / "tuned")
    text = _text(folder)
    blocks = load_text(text, base, n_tokens=4000, context=32)
    books = interp.fit_codebooks(base, ["a0", "a1", "m1"], blocks, n_codes=16, k=1)
    return base, tuned, text, blocks, books, folder


@pytest.fixture(scope="module")
def difference(case):
    base, tuned, _, blocks, books, _ = case
    return diff(base, tuned, blocks, codebooks=books, context=32, prompts=["Mary went to"])


def test_the_head_that_changed_carries_the_difference_and_has_the_codes(difference):
    assert difference.sites[0].site == "a0.h2" and difference.together[0].sites == 1
    # its weights alone differ, so its output is all that differs
    assert difference.sites[0].kl_share == pytest.approx(1, abs=1e-4)
    assert difference.sites[0].undone == pytest.approx(1, abs=1e-4)
    first = [code for code in difference.codes if code.site.startswith("a0")]
    assert first and {code.site for code in first} == {"a0.h2"}
    assert difference.n_changed > 0 and difference.kl > 0.01
    kl = [context.kl for context in difference.contexts]
    assert kl == sorted(kl, reverse=True) and kl[0] > difference.kl
    assert sum(share for _, _, share in difference.classes) == pytest.approx(1)
    assert difference.words and all(word.kl > 0 for word in difference.words)
    assert any(word.says for word in difference.words)


def test_codes_are_taken_back_beside_controls(difference):
    assert set(difference.undo) == {"codes forbidden", "codes set back", "random codes", "mean difference"}
    shares = [share for arm in difference.undo.values() for share in (arm.worst, arm.other)]
    assert all(share is not None and share <= 1 for share in shares) and len(set(shares)) == len(shares)
    assert _share(0.5, 2.0) == 0.75 and _share(0.0, 0.0) is None


def test_the_difference_of_means_is_taken_away_at_its_head_alone(case):
    base, tuned, _, blocks, books, _ = case
    before, after = read_all([base, tuned], books, blocks.tokens)
    writes = means_back([ChangedCode("a0.h2", 3, *REST)], (before.means, after.means))
    tokens = blocks.tokens
    (plain,), (moved,), (of_base,) = (
        kept(model, tokens, "blocks.0.attn.hook_z", hooks=patch_hooks(hooks))
        for model, hooks in ((tuned, {}), (tuned, writes), (base, {}))
    )
    # to what the base has in the mean, though no vector is the base's
    assert torch.allclose(moved[:, :, 2].mean((0, 1)), of_base[:, :, 2].mean((0, 1)), atol=1e-5)
    assert not torch.allclose(plain[:, :, 2].mean((0, 1)), of_base[:, :, 2].mean((0, 1)), atol=1e-3)
    others = [head for head in range(plain.shape[2]) if head != 2]
    assert torch.equal(moved[:, :, others], plain[:, :, others])


def test_json_comes_back_and_its_page_is_short(difference, tmp_path):
    stored = json.loads(json.dumps(difference.as_json(), allow_nan=False))
    assert set(stored) == KEYS > ASKED_FOR
    assert set(stored["codes"][0]) >= {"site", "code", "name", "base", "tuned", "q", "examples"}
    assert set(stored["contexts"][0]) >= {"text", "token", "kl"}
    assert set(stored["sites"][0]) >= {"site", "kl_share"}
    assert Diff.load(difference.save(tmp_path / "saved")) == difference
    assert len(difference.as_text().splitlines()) <= 45
    (tmp_path / "saved" / "diff.json").write_text("{}")
    with pytest.raises(InputError, match="make it again"):
        Diff.load(tmp_path / "saved")
    prompt = difference.prompts[0]
    assert prompt["prompt"] == "Mary went to" and prompt["base"] and prompt["tuned"]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_workers_read_what_one_process_reads(case, monkeypatch):
    monkeypatch.setattr("interp.changes.reading.PART", 1024)
    base, tuned, _, blocks, books, folder = case
    ray = Workers("ray")
    with pytest.raises(InputError, match="was changed after it was loaded"):
        diff(base, tuned, blocks, codebooks=books, patches=False, workers=ray)
    tuned = load_model(str(folder / "tuned"))
    serial, on_ray = (diff(base, tuned, blocks, codebooks=books, workers=workers) for workers in (SERIAL, ray))
    assert serial.kl > 0.01 and serial.codes and serial.undo
    serial, on_ray = (json.dumps(replace(result, seconds={}).as_json()) for result in (serial, on_ray))
    assert serial == on_ray


def test_outputs_of_all_sites_make_one_model_of_the_other(case):
    base, tuned, _, blocks, *_ = case
    sites = components(base, mlps=True)
    tokens = blocks.tokens[:6]
    outputs = Outputs(tuned, tokens, sites)
    says = outputs.read()
    before = Outputs(base, tokens, sites).read()
    assert kl_between(says, before) > 1e-3
    with torch.no_grad():
        assert kl_between(says, patched_log_p(base, outputs, sites)) < 1e-6
        earlier = patched_log_p(base, outputs, sites, slice(0, -1))
    assert 1e-4 < kl_between(says, earlier) != kl_between(says, before)


def test_another_output_matrix_counts_with_its_head(case):
    base = case[0]
    tokens = case[3].tokens[:4]
    changed = load_model(str(case[5] / "tuned"))
    with torch.no_grad():
        weights = dict(base.original_model.named_parameters())
        for name, weight in changed.original_model.named_parameters():
            weight.copy_(weights[name])
        width = base.cfg.d_head
        changed.original_model.model.layers[1].self_attn.o_proj.weight[:, :width] *= -1
    assert first_difference(base, changed) == 1
    site = [parse_site("a1.h0")]
    outputs = Outputs(changed, tokens, site)
    says = outputs.read()
    before = Outputs(base, tokens, site).read()
    with torch.no_grad():
        assert kl_between(says, patched_log_p(base, outputs, site)) < 1e-6 < kl_between(says, before)


def test_counts_are_those_of_loops_and_tests_those_of_scipy():
    rng = np.random.default_rng(1)
    before = rng.integers(-1, 6, (200, 2)).astype(np.int32)
    after = np.where(rng.random((200, 2)) < 0.4, rng.integers(-1, 6, (200, 2)), before).astype(np.int32)
    counts = count_codes(Reading({"m0": before}), Reading({"m0": after}), {"m0": 6}, 10)
    p = []
    for code in range(6):
        change = Counter()
        for token, (b, t) in enumerate(zip(before.tolist(), after.tolist(), strict=True)):
            new, gone = t.count(code) * (code not in b), b.count(code) * (code not in t)
            change[token // 10] += new - gone
        assert counts.base[code] == (before == code).sum() and counts.tuned[code] == (after == code).sum()
        more, less = (sum(sign * n > 0 for n in change.values()) for sign in (1, -1))
        p.append(binomtest(more, more + less).pvalue if more + less else 1.0)
    assert counts.p == pytest.approx(p) and len(set(p)) > 2
    assert counts.q == pytest.approx(false_discovery_control(p))
    assert not only_in(np.full((3, 1), NO_CODE), np.zeros((3, 1))).any()


def _drifting(rng, n=4000):
    """Codes of a base, and of a form of it in which 3 mostly becomes 4, and at word 7 becomes 5 instead."""
    words = rng.integers(0, 12, n)
    before = rng.integers(0, 4, (n, 1)).astype(np.int32)
    after = np.where((before == 3) & (rng.random((n, 1)) < 0.8), 4, before).astype(np.int32)
    trait = after.copy()
    trait[(words == 7) & (before[:, 0] == 3)] = 5
    return words, before, after, trait


def test_a_code_at_a_word_stands_out_from_what_moves_everywhere():
    words, before, after, trait = _drifting(np.random.default_rng(0))
    base, drifted, tuned = (Reading({"m0": ids}) for ids in (before, after, trait))
    nothing, moved_codes = (codes_at_words(base, reading, {"m0": 6}, words, 20) for reading in (drifted, tuned))
    assert not (nothing.q <= 0.05).any()
    significant = moved_codes.q <= 0.05
    assert set(zip(moved_codes.word[significant], moved_codes.row[significant], strict=True)) == {(7, 5)}
    # counted and expected by hand
    block = np.arange(len(words)) // 20
    firsts = [i for b in range(200) for i in np.flatnonzero((block == b) & (words == 7))[:1].tolist()]
    pair = int(np.flatnonzero(moved_codes.row == 5)[0])
    assert moved_codes.n[pair] == (before[firsts, 0] == 3).sum() and moved_codes.stretches[7] == len(firsts)
    at = np.zeros(len(words), bool)
    at[firsts] = True
    expected = 0.0
    share = (trait[trait[:, 0] != before[:, 0]] == 5).sum() / len(words)
    for code in range(4):
        others = (before[:, 0] == code) & ~at
        moved = (trait[others, 0] == 5).sum() * (code != 5)
        here = (before[firsts, 0] == code).sum()
        expected += here * (moved + share) / (others.sum() + 1)
    assert moved_codes.expected[pair] == pytest.approx(expected)
    assert moved_codes.weights().argmax() == 7 and (moved_codes.weights(moved_codes) == 0).all()
    assert moved_codes.weights(nothing)[7] > 0


def test_codes_are_set_back_and_put_in(case):
    base, tuned, _, blocks, books, _ = case
    change = ChangedCode("a0.h2", 3, *REST)
    tokens = blocks.tokens[:20]
    plain = read_batch(tuned, books, tokens).ids["a0.h2"]
    assert (plain == 3).any()
    with edited(tuned, books, set_back([change])) as attached:
        tuned(tokens)
        edited_ids = attached.ids["a0"][:, :, 2].reshape(-1, 1).numpy()
    assert (edited_ids == np.where(plain == 3, 5, plain)).all()
    ((edit, gate),) = put_in([change])
    assert edit == SetCode("a0.h2", 3)
    with edited(base, books, put_in([change])) as attached:
        base(tokens)
        edited_ids = attached.ids["a0"][:, :, 2]
    mary = [base.tokenizer.decode([token]).strip() == "Mary" for token in tokens.flatten().tolist()]
    assert any(mary) and (edited_ids.flatten()[torch.tensor(mary)] == 3).all()
    assert gate.startswith("token:")


def test_command(case, tiny_model_folder, command, tmp_path):
    _, _, text, _, _, folder = case
    base, tuned = str(tiny_model_folder("llama")), str(folder / "tuned")
    options = ["--text", text, "--tokens", "1500", "--context", "32", "--no-patches"]
    out = command("diff", base, base, *options)
    assert out.code == 0 and out.out.startswith("no difference")
    file = tmp_path / "diff.json"
    out = command("diff", base, tuned, *options, "--json", str(file), "--out", str(tmp_path / "saved"))
    assert out.code == 0 and set(json.loads(file.read_text())) == KEYS | {"request"}
    assert Diff.load(tmp_path / "saved").n_tokens >= 1000


def test_what_cannot_be_compared_is_refused_in_a_line(case, tiny_model_folder, command):
    base, _, text, blocks, books, folder = case
    spec = str(tiny_model_folder("llama"))
    tuned, gpt2 = str(folder / "tuned"), str(tiny_model_folder("gpt2"))
    for words, part in (
        ((gpt2, "--text", text), "compared"),
        ((tuned, "--null", spec, "--text", text), "--null"),
        ((tuned, "--text", text, "--codebooks", "no-such-books"), "no-such-books"),
    ):
        assert part in command("diff", spec, *words).error
    broken = load_model(spec)
    with torch.no_grad():
        broken.original_model.model.layers[1].mlp.up_proj.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="NaN"):
        diff(base, broken, blocks, codebooks=books, context=32)
