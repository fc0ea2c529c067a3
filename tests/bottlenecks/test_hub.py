"""Push and pull by the usual calls, with a folder in the place of the hub."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi

from interp.bottlenecks import Bottleneck, Codebook, CodebookConfig, DiscreteSAE, load_bottleneck
from interp.errors import InputError

NAME = "someone/codes-of-a5"


@pytest.fixture
def book() -> Codebook:
    return Codebook(CodebookConfig(d_in=6, n_codes=12, k=2, groups=3))


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A folder that uploads go to and downloads come from."""
    place = tmp_path / "hub"

    def create(_self, name, **_):
        (place / name).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=name)

    def upload(_self, *, repo_id, folder_path, **_):
        shutil.copytree(folder_path, place / repo_id, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr("interp.bottlenecks.hub.snapshot_download", lambda name, **_: str(place / name))
    return place


def test_what_is_pushed_is_what_is_pulled(book, hub):
    assert book.push_to_hub(NAME).startswith("https://")
    files = {path.name for path in (hub / NAME).iterdir()}
    assert files == {"cfg.json", "weights.safetensors", "README.md"}
    assert f'load_bottleneck("{NAME}")' in (hub / NAME / "README.md").read_text()
    for again in (load_bottleneck(NAME), Codebook.from_pretrained(NAME), Bottleneck.from_pretrained(NAME)):
        assert again.config == book.config and torch.equal(again.codes, book.codes)
    with pytest.raises(InputError, match="discrete_sae"):
        DiscreteSAE.from_pretrained(NAME)


def test_a_folder_needs_no_hub_and_comes_before_it(book, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book.save_pretrained("someone/codes")
    assert torch.equal(load_bottleneck("someone/codes").codes, book.codes)
    assert torch.equal(Codebook.from_pretrained(tmp_path / "someone" / "codes").codes, book.codes)


@pytest.mark.parametrize("source", [Path("no/where"), "nowhere", "./no/where", "a/b/c"])
def test_what_is_no_name_of_a_repository_is_looked_for_here_only(source, hub):
    with pytest.raises(InputError, match=r"cannot read the configuration .*cfg.json"):
        load_bottleneck(source)
    assert not hub.exists()


def test_without_a_network_one_line_says_so(book):
    with pytest.raises(InputError) as pull:
        load_bottleneck(NAME)
    with pytest.raises(InputError) as push:
        book.push_to_hub(NAME)
    for line in (str(pull.value), str(push.value)):
        assert NAME in line and "hub could not be reached" in line and "\n" not in line


def test_a_name_that_no_repository_can_have_is_refused(book):
    with pytest.raises(InputError, match="no name of a repository"):
        book.push_to_hub("a/b/c")
