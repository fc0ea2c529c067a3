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
from interp.training import TrainConfig, Trainer, train_codebooks
from interp.training import run as checkpoint
from interp.training import run as training_run

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


@pytest.mark.parametrize(
    ("call", "target", "name", "after"),
    [
        (1, Trainer, "step", False),
        (2, Trainer, "step", True),
        (8, Trainer, "step", False),
        (16, Trainer, "step", True),
        (2, checkpoint, "save_file", False),
        (2, checkpoint, "save_file", True),
        (2, training_run, "write_json", False),
        (2, training_run, "refit_centroids", False),
        (2, training_run, "refit_centroids", True),
        (1, training_run.Codebooks, "finish", False),
    ],
)
def test_a_killed_run_goes_on_with_the_same_losses(
    model, start, text, whole, tmp_path, monkeypatch, call, target, name, after
):
    kill_at(monkeypatch, call, target, name, after=after)
    with pytest.raises(Killed):
        train_codebooks(model, start, text, tmp_path / "out", CONFIG)
    monkeypatch.undo()
    steps = kill_at(monkeypatch, -1, Trainer, "step", after=True)
    oftener = replace(CONFIG, checkpoint_every=2)  # which changes nothing that is found
    found = train_codebooks(model, start, text, tmp_path / "out", oftener)
    first, second = history(whole.folder), history(found.folder)
    assert first["loss"] == pytest.approx(second["loss"], abs=1e-6) and first["dead"] == second["dead"]
    for one, other in zip(
        *(Codebooks.from_pretrained(folder.folder, model).values() for folder in (whole, found)), strict=True
    ):
        torch.testing.assert_close(one.codes, other.codes, atol=1e-6, rtol=0)
        assert torch.equal(one.counts, other.counts)
    done = (
        call
        if target is Trainer
        else {"save_file": 6, "write_json": 6, "refit_centroids": 16, "finish": 16}[name]
    )
    done -= target is Trainer and not after
    assert len(steps) <= 16 - done + CONFIG.checkpoint_every, "more than an interval was done again"


def test_joint_training_goes_on_too(start, text, tiny_model_folder, tmp_path, monkeypatch):
    config = replace(CONFIG, objective="joint", centroid_refits=0, epochs=1, model_lr=1e-3)

    def fresh():
        return load_model(str(tiny_model_folder("llama")))

    first = train_codebooks(fresh(), start, text, tmp_path / "whole", config)
    kill_at(monkeypatch, 6, Trainer, "step", after=True)
    with pytest.raises(Killed):
        train_codebooks(fresh(), start, text, tmp_path / "out", config)
    monkeypatch.undo()
    second = train_codebooks(fresh(), start, text, tmp_path / "out", config)
    assert history(first.folder)["loss"] == pytest.approx(history(second.folder)["loss"], abs=1e-6)
    models = [load_model(found.manifest["model"]["spec"]) for found in (first, second)]
    torch.testing.assert_close(models[0](text.tokens[:2]), models[1](text.tokens[:2]))


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
    found = train_codebooks(model, start, text, killed, CONFIG)
    assert history(found.folder)["loss"] == pytest.approx(history(whole.folder)["loss"], abs=1e-6)


def test_a_checkpoint_with_codes_of_another_shape_is_refused(model, start, text, killed):
    path = checkpoints(killed)[-1]
    with safe_open(path, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({**tensors, "a1/codes": tensors["a1/codes"][:, :5].contiguous()}, path, metadata)
    with pytest.raises(InputError, match=r"the checkpoint has a1/codes of shape \[4, 5, .*\], not \[4, 12"):
        train_codebooks(model, start, text, killed, CONFIG)


def test_another_runs_checkpoint_is_refused(model, start, text, killed, tiny_model, tmp_path):
    with pytest.raises(InputError, match=r"another training \(lr 0.05, not 0.1\)"):
        train_codebooks(model, start, text, killed, replace(CONFIG, lr=0.1))
    other_text = load_text("stdlib", model, n_tokens=2048, context=32, seed=1)
    with pytest.raises(InputError, match=r"another training \(text.seed 0, not 1\)"):
        train_codebooks(model, start, other_text, killed, CONFIG)
    config = FitConfig(n_codes=12, k=4, selection="matching_pursuit")
    sites = fit_codebooks(model, ["a0"], text, tmp_path / "a0", config)
    with pytest.raises(InputError, match="another sites"):
        train_codebooks(model, sites, text, killed, CONFIG)
    other = tiny_model("gpt2")
    with pytest.raises(InputError, match="holds codebooks of"):
        train_codebooks(other, start, text, killed, CONFIG)
    # copied into a folder where something else was begun
    (killed / ".work" / "request.json").unlink()
    with pytest.raises(InputError, match="is a checkpoint of another training"):
        train_codebooks(model, start, text, killed, replace(CONFIG, seed=3))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_no_numbers_stop_it_and_the_last_checkpoint_stays(
    model, start, text, killed, whole, value
):
    def spoil(x):
        x = x.clone()
        x[0, 3] = value
        return x

    kept = checkpoints(killed)[-1]
    with (
        hooked(model, {"blocks.0.hook_resid_post": spoil}),
        pytest.raises(InputError, match=r"step 7 of 16: .*; the last good checkpoint is .*step-0+6"),
    ):
        train_codebooks(model, start, text, killed, CONFIG)
    assert checkpoints(killed)[-1] == kept
    found = train_codebooks(model, start, text, killed, CONFIG)
    assert history(found.folder)["loss"] == pytest.approx(history(whole.folder)["loss"], abs=1e-6)


def test_codes_that_are_no_numbers_make_no_checkpoint(model, start, text, killed, monkeypatch):
    state = Trainer.state

    def spoiled(self):
        found = state(self)
        return {**found, "m0/codes": found["m0/codes"] * float("nan")}

    monkeypatch.setattr(Trainer, "state", spoiled)
    kept = checkpoints(killed)
    with pytest.raises(InputError, match="step 9: m0/codes holds NaN or infinite values; the last good"):
        train_codebooks(model, start, text, killed, CONFIG)
    assert checkpoints(killed) == kept


def test_a_finished_run_is_not_done_again_and_another_is_refused(model, start, text, whole, monkeypatch):
    monkeypatch.setattr(Trainer, "step", None)
    assert train_codebooks(model, start, text, whole.folder, CONFIG).manifest == whole.manifest
    with pytest.raises(InputError, match=r"another training \(seed 0, not 1\)"):
        train_codebooks(model, start, text, whole.folder, replace(CONFIG, seed=1))
    with pytest.raises(InputError, match="holds fitted codebooks: write the trained ones"):
        train_codebooks(model, start, text, start.folder, CONFIG)


def test_the_step_follows_the_number_of_codes_and_is_kept_as_a_number(model, start, text, tmp_path):
    k = start.manifest["fit"]["k"]
    assert [TrainConfig().for_codes(some).lr for some in (1, 2, 8, 9, 32)] == [0.02, 0.01, 0.01, 0.002, 0.002]
    assert [TrainConfig().for_codes(some, mlps=True).lr for some in (1, 8, 32)] == [0.003, 0.003, 0.002]
    assert TrainConfig(lr=0.5).for_codes(1, mlps=True).lr == 0.5
    assert {site[0] for site in start.sites} == {"a", "m"}  # so by what is right for heads
    books = Codebooks.from_pretrained(start.folder, model)
    assert TrainConfig().for_books({"m0": books["m0"]}).lr == 0.003
    unsaid = replace(CONFIG, epochs=1, centroid_refits=0, lr=None)
    told = replace(unsaid, lr=unsaid.for_codes(k).lr)
    first = train_codebooks(model, start, text, tmp_path / "first", unsaid)
    assert first.manifest["training"]["lr"] == told.lr
    # so that the same command with the number said is the same run
    again = train_codebooks(model, start, text, tmp_path / "first", told)
    assert again.manifest == first.manifest
    trained = train_codebooks(model, start, text, tmp_path / "second", told)
    assert history(trained.folder) == history(first.folder)
