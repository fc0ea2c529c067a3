"""How many codes a head needs by how its codebook is fitted: 14 slots of IOI.

    python -m benchmarks.programs_fitting [--show]

The smallest size that carries 90 % of the slot's effect at an own cost of at most 10 %, on 64 pairs that no codebook
was fitted to: 32 where the slot is not at END. 512 pairs fit. The last column is what two codes of 32 each carry in
place of one. Chosen by these numbers: how ``interp discover`` fits codes. Some eight minutes of a core.
"""

import numpy as np
from rich.progress import track

from benchmarks.common import RESULTS, arguments, print_table
from interp import load_model, load_task
from interp.bottlenecks.kinds.codebook import Codebook, CodebookConfig
from interp.files import read_json, write_json
from interp.programs.codes import ENOUGH, METRICS, MOST_COST, KeptEffect, fit_few, measure
from interp.programs.slots import HeadAtRole, SlotRunner, read_slots

OUT = RESULTS / "programs" / "fitting.json"
FIT, JUDGE, SEED = 512, 64, 11
SIZES = (2, 3, 4, 6, 8, 12, 16, 32, 64, 128)
AT_S2 = ("a8.h0", "a15.h7", "a17.h0", "a17.h4", "a17.h5", "a18.h0")
AT_END = ("a18.h2", "a19.h2", "a20.h0", "a23.h3", "a24.h4", "a24.h5", "a24.h7")
SLOTS = [("a16.h0", "S1+1"), *((head, "S2") for head in AT_S2), *((head, "END") for head in AT_END)]


def main() -> None:
    if not arguments(__doc__, show=False).show:
        run()
    show(read_json(OUT))


def run() -> None:
    model = load_model()
    pairs = load_task("ioi").sample(model.tokenizer, FIT + JUDGE, SEED)
    slots = [HeadAtRole.of(*name) for name in SLOTS]
    fitted, _ = read_slots(model, pairs.subset(range(FIT)), slots)
    judge = SlotRunner.of(model, pairs.subset(range(FIT, FIT + JUDGE)))
    results = {}
    for slot in track(slots, "slots"):
        z, judging = fitted[slot], np.arange(JUDGE if slot.role == "END" else JUDGE // 2)
        results[str(slot)] = {"effect": 0.0, "two": 0.0}
        for metric in METRICS:
            books = [fit_few(z, size, metric) for size in SIZES]
            kept = measure(judge, slot, books, judging)
            results[str(slot)][metric] = [
                [book.config.n_codes, kept_effect.effect_kept, kept_effect.reconstruction_cost]
                for book, kept_effect in zip(books, kept, strict=True)
            ]
        config = CodebookConfig(d_in=z.shape[-1], n_codes=32, k=2, selection="matching_pursuit")
        two: KeptEffect = measure(judge, slot, [Codebook(config).fit(z.flatten(0, 1))], judging)[0]
        results[str(slot)] |= {"effect": float(two.effect.mean()), "two": two.effect_kept}
    write_json(OUT, results)


def show(results: dict) -> None:
    rows = []
    bits: dict[str, list[float]] = {metric: [] for metric in (*METRICS, "fewest")}
    for slot, of in results.items():
        fewest = {
            metric: min(
                (n for n, carried, cost in of[metric] if carried >= ENOUGH and abs(cost) <= MOST_COST), default=None
            )
            for metric in METRICS
        }
        cells = (fewest[metric] or "none" for metric in METRICS)
        rows.append((slot, f"{of['effect']:+.2f}", *cells, f"{of['two']:.2f}"))
        bits_needed = [7.0 if n is None else float(np.log2(n)) for n in fewest.values()]
        for metric, n_bits in zip(bits, [*bits_needed, min(bits_needed)], strict=True):
            bits[metric].append(n_bits)
    print_table(("slot", "effect", *METRICS, "two codes of 32"), rows)
    for metric, each in bits.items():
        print(f"{metric}: {np.mean(each):.1f} bits in the mean, 7 where no size does")


if __name__ == "__main__":
    main()
