"""Read and steer language models by discrete codes, and find the circuit behind a behaviour."""

import importlib
import os
import sys
from typing import Any

__version__ = "0.1.0"

DEFAULT_MODEL = "smollm2-135m-instruct"  # the embedded one, which is meant where no model is named
DEFAULT_CODEBOOKS = "smollm2-135m-instruct-k1"
"""Its codebooks at all heads, which come with the package; those at MLP outputs are
``smollm2-135m-instruct-mlps-k1``."""

THRESHOLD = 0.02  # a head is a member when its absolute mean effect is at least this share of the clean–corrupt gap
CANDIDATES = 30  # best-scored components that are checked by activation patching
MIN_PAIRS, MOST_PAIRS = 5, 100_000
"""Fewer pairs give no bootstrap interval worth the name; more would be sampled for minutes."""
MOST_SEED = 2**32 - 1

# Read once, when torch loads. Threads that spin while they wait are up to 6 times slower on two cores that others use,
# and faster on idle ones: set OMP_WAIT_POLICY=active there, or GOMP_SPINCOUNT.
if "torch" not in sys.modules and "GOMP_SPINCOUNT" not in os.environ:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# torch and transformer-lens take seconds to import: names are fetched when they are first used
_EXPORTS = {
    "load_model": "interp.models",
    "load_task": "interp.tasks",
    "find_circuit": "interp.runs.discover",
    "Run": "interp.runs.run",
    "why": "interp.contrast",
    "diff": "interp.changes",
    "Codebooks": "interp.bottlenecks.store",
    "fit_codebooks": "interp.bottlenecks.fit",
    "train_codebooks": "interp.training",
    "attach": "interp.bottlenecks.attach",
    "SetCode": "interp.bottlenecks.edits",
    "AddCode": "interp.bottlenecks.edits",
    "ForbidCode": "interp.bottlenecks.edits",
    "find_codes": "interp.steering",
    "steer": "interp.steering",
    "generate": "interp.models.generate",
    "CodeIndex": "interp.codesearch",
}
# No module imports upwards. A few calls lead to a package that stands later all the same, as `Run.report()` does to the
# report: they take its name from here, as `interp.render_report`. These are not a part of what `interp` offers.
_LATER = {
    "load_planted_model": "interp.planted.models",
    "planted_names": "interp.planted.models",
    "load_planted_task": "interp.planted.tasks",
    "planted_task_names": "interp.planted.tasks",
    "execute_program": "interp.programs.execute",
    "load_run": "interp.runs.folder",
    "save_run": "interp.runs.folder",
    "save_new_run": "interp.runs.folder",
    "save_validity": "interp.runs.folder",
    "render_report": "interp.report.page",
}
_MODULES = _EXPORTS | _LATER
__all__ = ["DEFAULT_MODEL", "__version__", *_EXPORTS]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
