"""The models and bottlenecks of the conformance suite."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import HfApi

from interp.bottlenecks import Bottleneck
from interp.models import Model
from tests.bottlenecks.conformance import CASES, FAMILIES, Case, fit_all

# one kind is attached to every family, any other to one of them
FIRST, *OTHERS = CASES
SETTINGS = [(family, FIRST) for family in FAMILIES]
SETTINGS += [(FAMILIES[number % len(FAMILIES)], name) for number, name in enumerate(OTHERS)]


@pytest.fixture(scope="session", params=SETTINGS, ids="-".join)
def setting(request) -> tuple[str, str]:
    """A model family and a case."""
    return request.param


@pytest.fixture(scope="session")
def model(tiny_model, setting) -> Model:
    return tiny_model(setting[0])


@pytest.fixture(scope="session")
def case(setting) -> Case:
    return CASES[setting[1]]


@pytest.fixture(scope="session")
def fitted(model, case) -> dict[str, Bottleneck]:
    return fit_all(model, case)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A folder that uploads go to and downloads come from."""
    place = tmp_path / "hub"

    def create(_self, repo_id, **_):
        (place / repo_id).mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=repo_id)

    def upload(_self, *, repo_id, folder_path, **_):
        shutil.copytree(folder_path, place / repo_id, dirs_exist_ok=True)
        return f"https://hub/{repo_id}/commit/1"

    monkeypatch.setattr(HfApi, "create_repo", create)
    monkeypatch.setattr(HfApi, "upload_folder", upload)
    monkeypatch.setattr("interp.bottlenecks.base.snapshot_download", lambda name, **_: str(place / name))
    return place
