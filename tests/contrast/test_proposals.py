"""One prompt: what is proposed to compare it with, and several comparisons at once."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from interp.contrast import propose, why, why_pairs, why_several
from interp.errors import InputError
from interp.executor import SERIAL, Workers
from interp.models import load_model
from interp.tasks import load_task
from tests.oracles import planted

A = "Mary and John went to the store . John gave a ring to"
OTHERS = [
    "Mary and John went to the store . Mary gave a ring to",
    "Mary and John went to the store . Paul gave a ring to",
]


def log_p(model, text):
    with torch.no_grad():
        ids = model.tokenizer(text, add_special_tokens=False).input_ids
        return model(torch.tensor([[model.tokenizer.bos_token_id, *ids]]))[0, -1].log_softmax(-1)


def test_what_is_proposed_changes_one_word_and_the_next_token_as_it_says():
    model, _ = planted("planted-inhibition", 1)
    proposals = propose(model, A)
    before = log_p(model, A)
    assert proposals.top == model.tokenizer.decode([int(before.argmax())])
    assert proposals.p == pytest.approx(float(before.exp().max()), abs=1e-4)
    assert len(proposals.proposals) >= 2
    kl = [proposal.kl for proposal in proposals.proposals]
    assert kl == sorted(kl, reverse=True) and kl[0] > 0.1
    for proposal in proposals.proposals:
        differ = [(x, y) for x, y in zip(A.split(), proposal.prompt.split(), strict=True) if x != y]
        assert differ == [(proposal.was, proposal.becomes)]
        after = log_p(model, proposal.prompt)
        assert proposal.kl == pytest.approx(float((before.exp() * (before - after)).sum()), abs=1e-3)
        assert proposal.p == pytest.approx(float(after.exp()[before.argmax()]), abs=1e-4)
        assert proposal.top == model.tokenizer.decode([int(after.argmax())])


def test_numbers_keep_their_digits_and_words_their_tokens(model):
    a = "The war lasted from the year 1673 to the year 16"
    length = len(model.tokenizer(a).input_ids)
    proposals = propose(model, a).proposals
    numbers = [proposal for proposal in proposals if proposal.was.isdigit()]
    assert {proposal.was for proposal in numbers} == {"1673", "16"}
    assert all(re.fullmatch(rf"\d{{{len(each.was)}}}", each.becomes) for each in numbers)
    assert all(len(model.tokenizer(each.prompt).input_ids) == length for each in proposals)
    assert propose(model, ", ,").proposals == []
    with pytest.raises(InputError, match="prompt A ''"):
        propose(model, "")


def test_several_comparisons_have_the_mean_of_their_effects():
    model, _ = planted("planted-inhibition", 1)
    several = why_several(model, A, OTHERS)
    assert [explanation.b for explanation in several.explanations] == OTHERS
    singly = [why(model, A, b) for b in OTHERS]
    shares = [
        {
            (node.site, node.position): node.effect / (single.difference["a"] - single.difference["b"])
            for node in single.nodes
        }
        for single in singly
    ]
    common = [node for node in several.nodes if all((node.site, node.position) in of for of in shares)]
    assert len(common) >= 2
    for node in common:
        each = [of_single[node.site, node.position] for of_single in shares]
        assert node.share == pytest.approx(np.mean(each), abs=1e-3)
        assert min(each) - 1e-3 <= node.low <= node.share <= node.high <= max(each) + 1e-3
    kept = {(node.site, node.position) for single in singly for node in single.nodes[: single.kept]}
    assert {(node.site, node.position) for node in several.nodes} == kept
    assert max(node.kept_in for node in several.nodes) == 2
    with pytest.raises(InputError, match="give a list of prompts"):
        why_several(model, A, [])


def test_the_command_proposes_and_explains_several(command):
    words = "why", "--model", "planted-inhibition"
    shown = command(*words, A)
    assert shown.code == 0 and len(shown.out.splitlines()) <= 14
    assert [following[0] for following in shown.following] == ["why", "why"]
    several = command(*words, A, *OTHERS, "--json", "-")
    assert json.loads(several.out).keys() == {"a", "nodes", "explanations"}
    proposed = command(*words, "--proposed", "2", "--json", "-", "--", A)
    stored = json.loads(proposed.out)
    assert len(stored["explanations"]) == 2
    assert stored["nodes"][0].keys() == {"site", "position", "token", "share", "low", "high", "kept_in"}
    printed = json.loads(command(*words, A, "--json", "-").out)
    assert printed["proposals"][0].keys() == {"prompt", "was", "becomes", "p", "top", "kl"}


def test_a_chat_template_stands_around_both_prompts(model, monkeypatch):
    template = "{{ bos_token }}User: {{ messages[0]['content'] }}\nModel:"
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    a, b = "The 42 keys to the cabinet", "The 43 keys to the cabinet"
    explanation = why(model, a, b, chat=True)
    text = model.tokenizer.apply_chat_template([{"role": "user", "content": a}], tokenize=False)
    ids = model.tokenizer(text, add_special_tokens=False).input_ids
    assert "".join(explanation.tokens) == model.tokenizer.decode(ids)
    assert explanation.chat and explanation.a == a and explanation.tokens[-1] == ":"
    proposals = propose(model, a, chat=True).proposals
    assert [each.was for each in proposals] == ["42"]
    for each in proposals:
        assert len(each.prompt.split()) == 6 and "User" not in each.prompt


@pytest.mark.usefixtures("elsewhere")
def test_a_pair_becomes_a_task(command):
    words = ("--model", "planted-inhibition", "--template", "names.json")
    shown = command("why", A, OTHERS[0], *words)
    assert shown.code == 0 and shown.following[0] == ["discover", "names.json"]
    model, _ = planted("planted-inhibition", 1)
    explanation = why(model, A, OTHERS[0])
    names = {"John": "answer", "Mary": "instead"}
    by_word = {word: explanation.answers[name]["token"] for word, name in names.items()}
    task = load_task("names.json")
    pairs = task.sample(model.tokenizer, 2, 0)
    assert {pair.clean for pair in pairs} == {A, OTHERS[0]}
    for pair in pairs:
        word = pair.variables["clean"]["word"]
        [expected] = task.expected(pair.variables["clean"])
        assert model.tokenizer.decode(pair.answers) == by_word[word] == expected.strip()
        assert {word, pair.variables["corrupt"]["word"]} == set(by_word)
    for bad in ((A, "Mary and John went to the park . Mary gave a ring to"), (A,), (A, *OTHERS)):
        refused = command("why", *bad, *words[:2], "--template", "other.json")
        assert refused.code == 2 and len(refused.error.splitlines()) == 1


def test_pairs_of_a_task_are_explained_each_for_itself_and_kept(command, tmp_path):
    name, checkpoint = "planted-inhibition", tmp_path / "kept"
    explained = why_pairs(name, name, n=3, checkpoint=checkpoint)
    assert len(explained.explanations) == len(list(checkpoint.iterdir())) == 3
    assert not explained.refused
    for each in explained.explanations:
        answers = {key: each.answers[key]["token"] for key in ("answer", "instead")}
        assert replace(why(load_model(name), each.a, each.b, **answers), seconds={}) == each
    assert {head.site for head in explained.heads} == {"a0.h1", "a1.h2", "a2.h0", "a3.h5"}
    for head in explained.heads:
        shares = [_share(each, head.site) for each in explained.explanations]
        assert head.share == pytest.approx(np.mean(shares)) and head.kept_in == 3
        assert head.chance == pytest.approx((4 / explained.explanations[0].n_heads) ** 3)
        assert min(shares) - 1e-9 <= head.low <= head.share <= head.high <= max(shares) + 1e-9
    # a killed run goes on from what is there, one in another dtype does not
    for path in checkpoint.iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"needed": 7.0}))
    again = why_pairs(name, name, n=3, checkpoint=checkpoint)
    assert [each.needed for each in again.explanations] == [7.0] * 3
    other = why_pairs(name, name, n=3, checkpoint=checkpoint, dtype="bfloat16")
    assert 7.0 not in [each.needed for each in other.explanations]
    words = "why", "--task", name, "-n", "3"
    shown = command(*words, "--json", str(tmp_path / "pairs.json"))
    stored = json.loads((tmp_path / "pairs.json").read_text())
    assert shown.code == 0
    assert stored["explanations"] == json.loads(json.dumps(explained.as_json()))["explanations"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "pairs.json"]
    for bad in (("why",), (*words, "--answer", " a"), ("why", A, "-n", "3"), (*words, A)):
        assert command(*bad).code == 2


def _share(explanation, site):
    """Of the difference, what the kept nodes of a head do."""
    effects = [node.effect for node in explanation.nodes[: explanation.kept] if node.site == site]
    return sum(effects) / (explanation.difference["a"] - explanation.difference["b"])


@pytest.mark.ray
@pytest.mark.usefixtures("ray_cluster")
def test_pairs_are_explained_the_same_on_workers():
    name, places = "planted-inhibition", (SERIAL, Workers("ray"))
    serial, on_ray = (why_pairs(name, name, n=3, workers=workers).as_json() for workers in places)
    assert len(serial["explanations"]) == 3
    assert json.dumps(serial) == json.dumps(on_ray)
