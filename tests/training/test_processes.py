"""Two processes that train together find what one finds, and one goes on where two were killed."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from interp.bottlenecks.processes import first
from interp.bottlenecks.store import Codebooks
from interp.cli.main import main
from interp.errors import InputError
from interp.models import load_model
from interp.text import load_text
from interp.training import TrainConfig, train_codebooks
from interp.training.trainer import Trainer
from tests.command_line import ONE_THREAD

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
TOKENS = 64 * 32
CONFIG = TrainConfig(epochs=3, lr=0.02, replace_every=10, checkpoint_every=5)
"""24 steps of 8 blocks, with codes replaced."""
JOINT = replace(CONFIG, objective="joint", lr=0.002, epochs=1, replace_every=4)
"""Few and small steps: once a near tie is chosen otherwise, by rounding, two models part."""


@pytest.fixture(scope="module")
def start(start, tmp_path_factory) -> Codebooks:
    """A code of each is too long to be used: training replaces it."""
    folder = tmp_path_factory.mktemp("start")
    shutil.copytree(start.folder, folder, dirs_exist_ok=True)
    for site, book in Codebooks.from_pretrained(folder).items():
        book.codes.data[:, 0] *= 100
        book._save_pretrained(folder / site)
    return Codebooks.from_pretrained(folder)


def trainings(start: str, folder: str) -> None:
    """In each of two processes: the command, a joint training, one that is refused, and one in which one dies."""
    options = {"data": "stdlib", "tokens": TOKENS, "epochs": 3, "lr": 0.02}
    options |= {"replace-every": 10, "checkpoint-every": 5, "out": "two"}
    sys.argv = ["interp", "codebook", "train", start, *(f"--{name}={value}" for name, value in options.items())]
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 0
    books, model, frozen = Codebooks.from_pretrained(start), load_model(folder), load_model(folder)
    text = load_text("stdlib", model, n_tokens=TOKENS, context=32)
    train_codebooks(model, books, text, "joint", JOINT)
    with pytest.raises(InputError, match="batch_size 7 on 2 processes: it is of all of them, so give a mult"):
        train_codebooks(frozen, books, text, "refused", CONFIG, batch_size=7)
    step = Trainer.step

    def deadly(self: Trainer, number: int, tokens: torch.Tensor):
        if number == 12 and not first():
            os._exit(9)
        return step(self, number, tokens)

    Trainer.step = deadly
    train_codebooks(frozen, books, text, "killed", CONFIG)


@pytest.fixture(scope="module")
def two(tiny_model_folder, start, tmp_path_factory) -> Path:
    """What two processes of torchrun leave."""
    folder, model = tmp_path_factory.mktemp("two"), str(tiny_model_folder("llama"))
    call = f"trainings({str(start.folder)!r}, {model!r})"
    (folder / "script.py").write_text(f"from tests.training.test_processes import *\n{call}")
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([*line, "script.py"], cwd=folder, env=environment, capture_output=True, text=True)
    assert "exitcode  : 9" in done.stderr, done.stderr
    assert done.stdout.count("saved ") == 1, "only the first prints"
    assert not (folder / "refused").exists()
    return folder


def assert_alike(of_two: Path, of_one: Path) -> None:
    """Steps by what they measured, and codes by what they became."""
    history, wanted = (json.loads((folder / "training.json").read_text()) for folder in (of_two, of_one))
    assert len(wanted["loss"]) in (8, 24) and wanted["loss"][0] - wanted["loss"][-1] > 0.01
    assert history["loss"] == pytest.approx(wanted["loss"], abs=1e-4)
    assert history["explained"] == pytest.approx(wanted["explained"], abs=1e-3)
    assert history["dead"] == wanted["dead"] and max(wanted["dead"]) > 0
    books, expected = Codebooks.from_pretrained(of_two), Codebooks.from_pretrained(of_one)
    for site, book in expected.items():
        assert books[site].counts.equal(book.counts) and book.counts.sum() > 0
        torch.testing.assert_close(books[site].codes, book.codes, atol=1e-3, rtol=0)


def test_two_processes_find_what_one_finds(two, model, start, text, tmp_path):
    train_codebooks(model, start, text, tmp_path / "one", CONFIG)
    assert_alike(two / "two", tmp_path / "one")
    shutil.copytree(two / "killed", tmp_path / "goes-on")
    kept = sorted(path.name for path in (tmp_path / "goes-on/.work/checkpoints").iterdir())
    assert kept == ["step-00000005.safetensors", "step-00000010.safetensors"]
    steps: list[int] = []
    options = {"watch": lambda done, *_: steps.append(done)}
    train_codebooks(model, start, text, tmp_path / "goes-on", CONFIG, **options)
    assert steps == [15, 20, 24], "one goes on where two were killed"
    assert_alike(tmp_path / "goes-on", tmp_path / "one")


def test_two_finetune_a_model_as_one_does(two, tiny_model_folder, start, text, tmp_path):
    fresh = load_model(str(tiny_model_folder("llama")))
    train_codebooks(fresh, start, text, tmp_path / "one", JOINT)
    assert_alike(two / "joint", tmp_path / "one")
    models = (load_model(str(folder / "model")) for folder in (two / "joint", tmp_path / "one"))
    for weight, expected in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(weight, expected, atol=1e-5, rtol=0)


def test_sharded_weights_are_refused(tiny_model_folder, start, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        mesh, model = init_device_mesh("cpu", (1,)), load_model(str(tiny_model_folder("llama")))
        norm = model.original_model.model.norm
        norm.weight = torch.nn.Parameter(distribute_tensor(norm.weight, mesh, [Replicate()]), requires_grad=False)
        with pytest.raises(InputError, match=r"weights are sharded \(FSDP\)"):
            Trainer(model, dict(start), TrainConfig(), 10)
    finally:
        dist.destroy_process_group()
