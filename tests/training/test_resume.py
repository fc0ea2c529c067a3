"""A run killed at any moment goes on as if nothing had happened; whatever is not its own checkpoint is refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from interp.bottlenecks.fit import FitConfig, fit_codebooks
from interp.bottlenecks.store import Codebooks
from interp.errors import InputError
from interp.models import hooked, load_model
from interp.text import load_text
from interp.training import TrainConfig, Trainer, run, train_codebooks

CONFIG = TrainConfig(epochs=2, batch_size=8, lr=0.05, checkpoint_every=3, replace_every=2, centroid_refits=2)
"""16 steps."""


class Killed(BaseException):
    pass


def history(folder) -> dict:
    return json.loads((folder / "training.json").read_text())


@pytest.fixture(scope="module")
def whole(model, start, text, tmp_path_factory):
    """The run that nobody killed."""
    return train_codebooks(model, start, text, tmp_path_factory.mktemp("whole") / "out", CONFIG)


def kill_at(monkeypatch, call: int, target, name: str, *, after: bool) -> list[int]:
    """Die in the ``call``-th call of a function, before or after it does its work; returns what counts calls."""
    plain, calls = getattr(target, name), []

    def deadly(*arguments, **named):
        calls.append(1)
        if len(calls) == call and not after:
            raise Killed
        result = plain(*arguments, **named)
        if len(calls) == call:
            raise Killed
        return result

    monkeypatch.setattr(target, name, deadly)
    return calls


def whole_and_resumed(monkeypatch, tmp_path, train, call: int, *, after: bool) -> list:
    """What ``train`` leaves in a folder, in one go and where it was killed in between."""
    whole = train(tmp_path / "whole")
    kill_at(monkeypatch, call, Trainer, "step", after=after)
    with pytest.raises(Killed):
        train(tmp_path / "out")
    monkeypatch.undo()
    return [whole, train(tmp_path / "out")]


@pytest.mark.parametrize(
    ("call", "target", "name", "after", "done"),
    [
        (1, Trainer, "step", False, 0),
        (8, Trainer, "step", False, 7),
        (16, Trainer, "step", True, 16),
        (2, run, "save_file", False, 6),
        (2, run, "save_file", True, 6),
        (2, run, "write_json", False, 6),
        (2, run, "refit_centroids", True, 16),
        (1, Codebooks, "finish", False, 16),
    ],
)
def test_a_killed_run_goes_on_with_the_same_losses(
    model, start, text, whole, tmp_path, monkeypatch, call, target, name, after, done
):
    kill_at(monkeypatch, call, target, name, after=after)
    with pytest.raises(Killed):
        train_codebooks(model, start, text, tmp_path / "out", CONFIG)
    monkeypatch.undo()
    steps = kill_at(monkeypatch, -1, Trainer, "step", after=True)
    oftener = replace(CONFIG, checkpoint_every=2)  # which changes nothing that is found
    resumed = train_codebooks(model, start, text, tmp_path / "out", oftener)
    first, second = history(whole.folder), history(resumed.folder)
    assert first["loss"] == pytest.approx(second["loss"], abs=1e-6) and first["dead"] == second["dead"]
    books = (Codebooks.from_pretrained(codebooks.folder, model).values() for codebooks in (whole, resumed))
    for book, other in zip(*books, strict=True):
        torch.testing.assert_close(book.codes, other.codes, atol=1e-6, rtol=0)
        assert torch.equal(book.counts, other.counts)
    assert len(steps) <= 16 - done + CONFIG.checkpoint_every, "more than an interval was done again"


def test_joint_training_goes_on_too(start, text, tiny_model_folder, tmp_path, monkeypatch):
    config = replace(CONFIG, objective="joint", centroid_refits=0, epochs=1, model_lr=1e-3)

    def train(folder):
        return train_codebooks(load_model(str(tiny_model_folder("llama"))), start, text, folder, config)

    books = whole_and_resumed(monkeypatch, tmp_path, train, 6, after=True)
    first, second = (history(trained.folder)["loss"] for trained in books)
    assert first == pytest.approx(second, abs=1e-6)
    models = [load_model(trained.manifest["model"]["spec"]) for trained in books]
    torch.testing.assert_close(models[0](text.tokens[:2]), models[1](text.tokens[:2]))


def test_codes_that_are_rounded_go_on_from_what_they_were_rounded_from(model, text, tmp_path, monkeypatch):
    asked = {"kind": "ternary", "bits": 6, "n_tokens": 1000, "context": 16}
    books = fit_codebooks(model, ["a0"], text, tmp_path / "fitted", **asked)
    config = replace(CONFIG, centroid_refits=0, lr=0.2)

    def train(folder):
        return train_codebooks(model, books, text, folder, config)

    first, second = whole_and_resumed(monkeypatch, tmp_path, train, 8, after=False)
    torch.testing.assert_close(first["a0"].codes, second["a0"].codes, atol=1e-6, rtol=0)
    assert not torch.allclose(first["a0"].codes, books["a0"].codes, atol=0.01)


@pytest.fixture
def killed(model, start, text, tmp_path, monkeypatch):
    """A folder with checkpoints of steps 3 and 6."""
    kill_at(monkeypatch, 8, Trainer, "step", after=False)
    with pytest.raises(Killed):
        train_codebooks(model, start, text, tmp_path / "killed", CONFIG)
    monkeypatch.undo()
    return tmp_path / "killed"


def checkpoints(folder) -> list:
    return sorted((folder / ".work" / "checkpoints").glob("*.safetensors"))


def test_a_truncated_checkpoint_is_named_and_the_one_before_serves(model, start, text, whole, killed):
    before, last = checkpoints(killed)
    last.write_bytes(last.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"step-0+6.* is damaged .*delete it, .* goes on from step-0+3"):
        train_codebooks(model, start, text, killed, CONFIG)
    last.unlink()
    resumed = train_codebooks(model, start, text, killed, CONFIG)
    assert history(resumed.folder)["loss"] == pytest.approx(history(whole.folder)["loss"], abs=1e-6)


def test_another_runs_checkpoint_is_refused(model, start, text, killed, tiny_model, tmp_path):
    other_text = load_text("stdlib", model, n_tokens=2048, context=32, seed=1)
    config = FitConfig(n_codes=12, k=4, selection="matching_pursuit")
    sites = fit_codebooks(model, ["a0"], text, tmp_path / "a0", config)
    path = checkpoints(killed)[-1]
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({**tensors, "a1/codes": tensors["a1/codes"][:, :5].contiguous()}, path, metadata)

    def refused(message: str, of=model, books=start, words=text, **change) -> None:
        with pytest.raises(InputError, match=message):
            train_codebooks(of, books, words, killed, replace(CONFIG, **change))

    refused(r"the checkpoint has a1/codes of shape \[4, 5, .*\], not \[4, 12")
    refused(r"another training \(lr 0.05, not 0.1\)", lr=0.1)
    refused(r"another training \(text.seed 0, not 1\)", words=other_text)
    refused("another sites", books=sites)
    refused("holds codebooks of", of=tiny_model("gpt2"))
    # copied into a folder where something else was begun
    (killed / ".work" / "request.json").unlink()
    refused("step-00000006.safetensors holds a checkpoint of another training", seed=3)


def test_values_that_are_no_numbers_stop_it_and_the_last_checkpoint_stays(
    model, start, text, killed, whole, monkeypatch
):
    state, kept = Trainer.state, checkpoints(killed)

    def spoil(x):
        x = x.clone()
        x[0, 3] = float("inf")
        return x

    def spoiled(self):
        tensors = state(self)
        return {**tensors, "m0/codes": tensors["m0/codes"] * float("nan")}

    with (
        hooked(model, {"blocks.0.hook_resid_post": spoil}),
        pytest.raises(InputError, match=r"step 7 of 16: .*; the last good checkpoint is .*step-0+6"),
    ):
        train_codebooks(model, start, text, killed, CONFIG)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "state", spoiled)
        with pytest.raises(InputError, match="step 9: m0/codes holds NaN or infinite values; the last good"):
            train_codebooks(model, start, text, killed, CONFIG)
    assert checkpoints(killed) == kept
    resumed = train_codebooks(model, start, text, killed, CONFIG)
    assert history(resumed.folder)["loss"] == pytest.approx(history(whole.folder)["loss"], abs=1e-6)


def test_a_finished_run_is_not_done_again_and_another_is_refused(model, start, text, whole, monkeypatch):
    monkeypatch.setattr(Trainer, "step", None)
    assert train_codebooks(model, start, text, whole.folder, CONFIG).manifest == whole.manifest
    with pytest.raises(InputError, match=r"another training \(seed 0, not 1\)"):
        train_codebooks(model, start, text, whole.folder, replace(CONFIG, seed=1))
    with pytest.raises(InputError, match="holds fitted codebooks: write the trained ones"):
        train_codebooks(model, start, text, start.folder, CONFIG)


def test_a_step_that_follows_the_number_of_codes_is_kept_as_a_number(model, start, text, tmp_path):
    k = start.manifest["fit"]["k"]
    books = Codebooks.from_pretrained(start.folder, model)
    assert TrainConfig().for_books({"m0": books["m0"]}).lr == 0.003
    without = replace(CONFIG, epochs=1, centroid_refits=0, lr=None)
    with_number = replace(without, lr=without.for_codes(k).lr)
    first = train_codebooks(model, start, text, tmp_path / "first", without)
    assert first.manifest["training"]["lr"] == with_number.lr
    # so that the same command with the number said is the same run
    assert train_codebooks(model, start, text, tmp_path / "first", with_number).manifest == first.manifest
