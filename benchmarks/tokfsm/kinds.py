"""What each kind of bottleneck keeps of the finite-state machine, in a model that was trained without codes.

    python -m benchmarks.tokfsm.kinds --seed 0     # twenty minutes of a core; goes on where it stopped
    python -m benchmarks.tokfsm.kinds --show       # the table in benchmarks/TABLES.md

Kinds are fitted at the heads of every layer and at every MLP, each site behind the sites before it, as the reproduction
begins, and all are in place at once. The first part of the recipe ``quick`` trains the model. ``--out``: folder of the
checkpoint (default: runs/tokfsm-plain-seedN).
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.coders import Coder, new_coder
from benchmarks.common import RESULTS, arguments, kept, print_table
from benchmarks.tokfsm.accuracy import SAMPLED, held_out, language_scores, top10_overlap, transitions
from benchmarks.tokfsm.data import BOS, generator_of, sequences
from benchmarks.tokfsm.neox import At, NeoX
from benchmarks.tokfsm.recipe import recipe
from benchmarks.tokfsm.reproduce import train
from benchmarks.tokfsm.training import FIT, Training
from interp.errors import InputError
from interp.files import read_json, write_json
from interp.progress import bar

KEPT = RESULTS / "tokfsm-kinds"
KINDS = (
    *("vq", "residual_vq", "grouped_vq", "codebook", "gumbel", "fsq", "latent_quantization", "lfq", "bsq"),
    *("binary", "key_value", "prototypes", "ternary", "random", "pca4"),
)
BITS = (9, 18, 36)
EVALUATED, SAMPLES = 512, 1000
PLAIN = "no codes"


class Fitted:
    """A kind at every site; give it to the model as ``at``."""

    def __init__(self, kind: str, bits: int, seed: int) -> None:
        self.kind, self.bits, self.seed = kind, bits, seed
        self.coders: dict[str, Coder] = {}

    @torch.no_grad()
    def __call__(self, site: str, x: Tensor) -> Tensor:
        rows = x if site[0] == "a" else x[..., None, :]
        if site not in self.coders:  # the first pass fits
            *_, groups, d_in = rows.shape
            self.coders[site] = new_coder(self.kind, self.bits, d_in, groups, self.seed)
            self.coders[site].fit(rows.flatten(0, 1))
        return self.coders[site].coded(rows)[1].reshape(x.shape)


def scores(training: Training, model: NeoX, at: At | None) -> dict[str, list[float]]:
    machine, seed = training.machine, training.recipe.seed
    loss = language_scores(model, machine, held_out(machine, EVALUATED, seed), at).loss
    allowed = transitions(machine, model.sample(SAMPLES, generator_of(0, SAMPLED), bos=BOS, at=at)).mean(1)
    return {
        name: [float(x.mean()), 1.96 * float(x.std()) / len(x) ** 0.5]
        for name, x in (("loss", loss), ("transitions", allowed), ("top10", top10_overlap(machine, model, at)))
    }


def measure(training: Training, path: Path) -> None:
    model, wanted = training.model.eval(), training.recipe
    text = sequences(training.machine, wanted.fit_sequences, wanted.seed, FIT)
    rows = kept(path, {"rows": []})["rows"]
    known = {(row["kind"], row["asked"]) for row in rows}
    work = [(PLAIN, 0), *((kind, bits) for bits in BITS for kind in KINDS)]
    with bar("measuring kinds", len(work)) as done:
        for kind, bits in work:
            if (kind, bits) not in known:
                row: dict[str, Any] = {"kind": kind, "asked": bits}
                at = None if kind == PLAIN else Fitted(kind, bits, wanted.seed)
                try:
                    if at is not None:
                        with torch.no_grad():
                            model(text, at)
                    rows.append(row | scores(training, model, at))
                except InputError as error:
                    rows.append(row | {"refused": str(error)})
                write_json(path, {"tokens": wanted.plain_steps * wanted.per_step, "rows": rows})
            done(1)


def show() -> None:
    """Of several seeds the mean, and the 95 % interval of the mean over models where there are some."""
    results = [read_json(path) for path in sorted(KEPT.glob("*.json"))]

    def cell(kind: str, bits: int) -> str | None:
        models = [row for of in results for row in of["rows"] if (row["kind"], row["asked"]) == (kind, bits)]
        if not models or any("refused" in row for row in models):
            return None
        shares = [100 * row["transitions"][0] for row in models]
        half = 100 * models[0]["transitions"][1]
        if len(models) > 1:
            half = 1.96 * np.std(shares, ddof=1) / len(models) ** 0.5
        return f"{np.mean(shares):.1f} ± {half:.1f}, {np.mean([row['loss'][0] for row in models]):.2f}"

    rows = [(PLAIN, cell(PLAIN, 0)), *((kind, *(cell(kind, bits) for bits in BITS)) for kind in KINDS)]
    columns = (f"{bits} bits: allowed, loss" for bits in BITS)
    print_table(("kind", *columns), rows, f"{len(results)} models")


def main() -> None:
    given = arguments(__doc__, seed=0, out=Path, show=False)
    if not given.show:
        folder, wanted = (
            given.out or Path("runs") / f"tokfsm-plain-seed{given.seed}",
            recipe("quick", seed=given.seed),
        )
        training = train(wanted, folder, until=wanted.plain_steps, stage=bar)
        measure(training, KEPT / f"seed{given.seed}.json")
    show()


if __name__ == "__main__":
    main()
