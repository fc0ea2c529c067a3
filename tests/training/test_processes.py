"""Two processes that train together find what one finds, and one goes on where two were killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Replicate, distribute_tensor

from interp.bottlenecks.store import Codebooks
from interp.errors import InputError
from interp.models import load_model
from interp.training import TrainConfig, train_codebooks
from interp.training.trainer import Trainer
from tests.command_line import ONE_THREAD

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parents[2]
TOKENS = 64 * 32
CONFIG = TrainConfig(epochs=7, lr=0.02, replace_every=10, checkpoint_every=10)
"""56 steps of 8 blocks, with codes replaced."""


def torchrun(words: list[str], folder: Path) -> subprocess.CompletedProcess:
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    own = os.environ | ONE_THREAD | {"PYTHONPATH": str(ROOT)}
    return subprocess.run([*line, *words], cwd=folder, env=own, capture_output=True, text=True)


def assert_alike(two: Path, one: Path) -> None:
    """Steps by what they measured, and codes by what they became."""
    found, wanted = (json.loads((folder / "training.json").read_text()) for folder in (two, one))
    assert len(wanted["loss"]) == 56 and wanted["loss"][0] - wanted["loss"][-1] > 0.01
    assert found["loss"] == pytest.approx(wanted["loss"], abs=1e-4)
    assert found["explained"] == pytest.approx(wanted["explained"], abs=1e-3)
    assert found["dead"] == wanted["dead"] and max(wanted["dead"]) > 0
    found, wanted = Codebooks.from_pretrained(two), Codebooks.from_pretrained(one)
    for site in wanted.sites:
        assert found[site].counts.equal(wanted[site].counts) and found[site].counts.sum() > 0
        torch.testing.assert_close(found[site].codes, wanted[site].codes, atol=1e-3, rtol=0)


def test_two_processes_find_what_one_finds(model, start, text, tmp_path):
    words = ["-m", "interp", "codebook", "train", str(start.folder), "--out", "two", "--data", "stdlib"]
    words += ["--tokens", str(TOKENS), "--epochs", "7", "--lr", "0.02"]
    done = torchrun([*words, "--replace-every", "10", "--checkpoint-every", "10"], tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("saved ") == 1, "only the first prints"
    train_codebooks(model, start, text, tmp_path / "one", CONFIG)
    assert_alike(tmp_path / "two", tmp_path / "one")


def joint_then_killed(start: str, folder: str) -> None:
    """In each of two processes: a joint training, one that is refused, and one in which the second process dies."""
    from interp.bottlenecks.processes import first, join_torchrun
    from interp.text import load_text

    join_torchrun(None)
    books = Codebooks.from_pretrained(start)
    model, frozen = (load_model(folder) for _ in range(2))
    text = load_text("stdlib", model, n_tokens=TOKENS, context=32)
    train_codebooks(model, books, text, "joint", CONFIG, objective="joint")
    with pytest.raises(InputError, match="batch_size 7 on 2 processes: it is of all of them, so give a mult"):
        train_codebooks(frozen, books, text, "refused", CONFIG, batch_size=7)
    step = Trainer.step

    def deadly(self: Trainer, number: int, tokens: torch.Tensor):
        if number == 25 and not first():
            os._exit(9)
        return step(self, number, tokens)

    Trainer.step = deadly
    train_codebooks(frozen, books, text, "two", CONFIG)


def test_two_finetune_as_one_does_and_one_goes_on_where_two_were_killed(
    tiny_model_folder, model, start, text, tmp_path
):
    folder = str(tiny_model_folder("llama"))
    script = (
        f"from tests.training.test_processes import *\njoint_then_killed({str(start.folder)!r}, {folder!r})"
    )
    (tmp_path / "script.py").write_text(script)
    done = torchrun(["script.py"], tmp_path)
    assert done.returncode != 0 and not (tmp_path / "refused").exists()
    assert "exitcode  : 9" in done.stderr, done.stderr
    train_codebooks(load_model(folder), start, text, tmp_path / "one-joint", CONFIG, objective="joint")
    assert_alike(tmp_path / "joint", tmp_path / "one-joint")
    kept = sorted(path.name for path in (tmp_path / "two/.work/checkpoints").iterdir())
    assert kept == ["step-00000010.safetensors", "step-00000020.safetensors"]
    steps: list[int] = []
    train_codebooks(model, start, text, tmp_path / "two", CONFIG, watch=lambda done, *_: steps.append(done))
    assert steps == [30, 40, 50, 56]
    train_codebooks(model, start, text, tmp_path / "one", CONFIG)
    assert_alike(tmp_path / "two", tmp_path / "one")


def test_sharded_weights_are_refused(tiny_model_folder, start, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meet'}", rank=0, world_size=1)
    try:
        mesh, model = init_device_mesh("cpu", (1,)), load_model(str(tiny_model_folder("llama")))
        norm = model.original_model.model.norm
        norm.weight = torch.nn.Parameter(
            distribute_tensor(norm.weight, mesh, [Replicate()]), requires_grad=False
        )
        with pytest.raises(InputError, match=r"weights are sharded \(FSDP\)"):
            Trainer(model, dict(start), TrainConfig(), 10)
    finally:
        dist.destroy_process_group()
