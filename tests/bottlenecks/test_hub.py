"""Push and pull by the usual calls, with a folder in the place of the hub."""

from pathlib import Path

import pytest
import torch

from interp.bottlenecks import Bottleneck, Codebook, CodebookConfig, DiscreteSAE
from interp.errors import InputError

NAME = "someone/codes-of-a5"


@pytest.fixture
def book() -> Codebook:
    return Codebook(CodebookConfig(d_in=6, n_codes=12, k=2, groups=3))


def test_what_is_pushed_is_what_is_pulled(book, hub):
    assert book.push_to_hub(NAME).startswith("https://")
    files = {path.name for path in (hub / NAME).iterdir()}
    assert files == {"cfg.json", "weights.safetensors", "README.md"}
    assert "interp-codes" in (hub / NAME / "README.md").read_text()
    for again in (Codebook.from_pretrained(NAME), Bottleneck.from_pretrained(NAME)):
        assert again.config == book.config and torch.equal(again.codes, book.codes)
    with pytest.raises(InputError):
        DiscreteSAE.from_pretrained(NAME)


def test_a_folder_needs_no_hub_and_comes_before_it(book, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    book.save_pretrained("someone/codes")
    assert torch.equal(Bottleneck.from_pretrained("someone/codes").codes, book.codes)
    assert torch.equal(Codebook.from_pretrained(tmp_path / "someone" / "codes").codes, book.codes)


@pytest.mark.parametrize("source", [Path("no/where"), "nowhere", "./no/where", "a/b/c", "someone/none"])
def test_where_there_is_neither_folder_nor_repository_one_line_says_so(source):
    with pytest.raises(InputError) as error:
        Bottleneck.from_pretrained(source)
    assert str(source) in str(error.value) and "\n" not in str(error.value)
