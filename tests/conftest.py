"""What every test shares: no network, one thread, fixed seeds, models loaded once."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")  # the same tests everywhere; set it to run them on a GPU
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import contextlib  # noqa: E402
import functools  # noqa: E402
import gc  # noqa: E402
import random  # noqa: E402
import shlex  # noqa: E402
import shutil  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from pathlib import Path  # noqa: E402

import numpy as np  # noqa: E402
import pandas  # noqa: E402, F401
import plotly.graph_objects  # noqa: E402, F401
import pytest  # noqa: E402
import scipy.stats  # noqa: E402, F401
import sklearn.cluster  # noqa: E402, F401
import streamlit.testing.v1  # noqa: E402, F401
import torch  # noqa: E402

# before anything of interp: what is imported while a module with checked shapes is loaded is compiled anew
import transformer_lens  # noqa: E402, F401

from tests import shapes  # noqa: E402

shapes.check_package("interp")

from interp import DEFAULT_MODEL, models  # noqa: E402
from interp.models import Model, load_model  # noqa: E402
from tests.browser.workbench import free_ports  # noqa: E402
from tests.chromium import chromium  # noqa: E402, F401 - a fixture of several files
from tests.command_line import command, elsewhere  # noqa: E402, F401 - fixtures of several files
from tests.tiny_models import make_tiny  # noqa: E402

torch.set_num_threads(1)  # two threads on two busy cores are many times slower than one
# to look through all that is imported for garbage took a seventh of the time
gc.set_threshold(100_000, 20, 20)


def pytest_collection_finish() -> None:
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With ``-n 2 --dist loadgroup --no-loadscope-reorder``: what takes long starts first, so that no process is
    left alone with it; a file stays in one process, unless it groups its tests itself, all that drives Chromium in
    the same one, and all that shares a cluster."""
    long = set()
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            marks = [name for name in ("browser", "ray") if item.get_closest_marker(name)]
            group = marks[0] if marks else str(item.path)
            item.add_marker(pytest.mark.xdist_group(group))
        if any(map(item.get_closest_marker, ("slow", "browser", "ray"))):
            long.add(_group(item))
    items.sort(key=lambda item: _group(item) not in long)


def _group(item: pytest.Item) -> str:
    return item.get_closest_marker("xdist_group").args[0]


@pytest.fixture(autouse=True)
def _anew() -> None:
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    shapes.checked.clear()


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folder of the tiny random model of a family (``tests.tiny_models.FAMILIES``), made once a session."""
    folders: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in folders:
            folders[family] = make_tiny(family, tmp_path_factory.mktemp(family))
        return folders[family]

    return folder


@pytest.fixture(scope="session")
def tiny_model(tiny_model_folder: Callable[[str], Path]) -> Callable[[str], Model]:
    """The tiny random model of a family, loaded once a session: leave no hook on it."""
    models: dict[str, Model] = {}

    def model(family: str) -> Model:
        if family not in models:
            models[family] = load_model(str(tiny_model_folder(family)))
        return models[family]

    return model


@pytest.fixture(scope="session")
def model(tiny_model: Callable[[str], Model]) -> Model:
    """The tiny Llama."""
    return tiny_model("llama")


@pytest.fixture(scope="session")
def smollm2() -> Model:
    """The embedded default model; for tests marked ``slow``."""
    return load_model()


@pytest.fixture
def smollm2_at_once(smollm2: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who loads the default model gets the one that is loaded."""
    load = models.load_model

    @functools.wraps(load)
    def loaded(spec: str = DEFAULT_MODEL, **options) -> Model:
        return smollm2 if (spec, options) == (DEFAULT_MODEL, {}) else load(spec, **options)

    monkeypatch.setattr(models, "load_model", loaded)


@dataclass
class Cluster:
    """Where a Ray head answers drivers on this machine, and where its clients."""

    address: str
    client: str


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    """A Ray head of two CPUs on this machine, started as docs/cluster.md says; this process is connected to it.

    Workers stay for the next test, which gives them another desk: to import all that jobs need takes them longer than
    the jobs. They take no place, so that a driver of another process has its own.
    """
    from interp import executor

    free: list = []

    def hire(ray, _workers):
        return free.pop() if free else ray.remote(executor._Worker).options(num_cpus=0).remote()

    executor._hire, executor._dismiss = hire, lambda _ray, worker: free.append(worker)
    folder = Path(tempfile.mkdtemp(prefix="r"))  # sockets have short names
    cluster = Cluster(*(f"127.0.0.1:{port}" for port in free_ports(2)))
    page = Path(__file__).parent.parent / "docs/cluster.md"
    line = next(line for line in page.read_text().splitlines() if "ray start --head" in line)
    for documented, address in (("6379", cluster.address), ("10001", cluster.client)):
        assert documented in line
        line = line.replace(documented, address.rpartition(":")[2])
    setting, _ray, *words = shlex.split(line, comments=True)
    words = [Path(sys.executable).parent / "ray", *words, "--num-cpus", "2"]
    words += ["--block", "--temp-dir", folder, "--object-store-memory", "100000000", "--disable-usage-stats"]
    words += ["--include-dashboard", "false"]
    # Ray's own niceness, 15, starves workers beside other tests
    settings = os.environ | {"RAY_worker_niceness": "0"} | dict([setting.split("=")])
    with open(folder / "head.log", "w") as log, subprocess.Popen(words, stdout=log, stderr=log, env=settings) as head:
        try:
            for address in (cluster.address, cluster.client):
                wait_for(address, head)
            with contextlib.ExitStack() as connected:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setenv("RAY_ADDRESS", cluster.address)
                    connected.enter_context(executor._cluster(executor.Workers("ray")))
                yield cluster
        finally:
            head.terminate()
            head.wait(60)
            shutil.rmtree(folder, ignore_errors=True)


def wait_for(address: str, process: subprocess.Popen) -> None:
    """Until something answers there."""
    host, _, port = address.partition(":")
    for _ in range(600):
        with contextlib.suppress(OSError):
            return socket.create_connection((host, int(port)), 1).close()
        assert process.poll() is None
        time.sleep(0.1)
    raise TimeoutError(address)
