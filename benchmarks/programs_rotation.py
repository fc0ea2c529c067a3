"""A variable set by codes, by class means and by a learned rotation: the order of the names in IOI.

Distributed alignment search (Geiger et al. 2023) learns k directions of a head's z: with that part of z taken from a
clean prompt of the other order, the model should prefer the subject. Loss: cross entropy between the two answers. The
partners of held-out prompts are of the fit pairs. *own*: the partner has the prompt's own order, or its usual code is
set. *random*: k directions before learning; for codes, the change turned at random. Cost in forwards, backwards too.
"""

import numpy as np
import torch

from benchmarks.common import RESULTS, arguments
from interp import load_model, load_task
from interp.activations.metric import task_metric
from interp.files import read_json, write_json
from interp.interventions.patch import Patch
from interp.programs.codes import fit_few, ids, name_codes, variables
from interp.programs.program import FIT_PAIRS, JUDGE_PAIRS, SEED
from interp.programs.proof import HeadCodebook, NamedVariable, set_variables, stacked
from interp.programs.slots import Edit, HeadAtRole, SlotRunner, read_slots
from interp.prompts.sampling import held_out_pairs
from interp.stats import wilson_bounds

OUT = RESULTS / "programs" / "rotation.json"
SLOTS = A17, A19, A20 = (
    HeadAtRole.of("a17.h4", "S2"),
    HeadAtRole.of("a19.h2", "END"),
    HeadAtRole.of("a20.h0", "END"),
)
CODES, TRAIN, BATCH, STEPS, RATE = 4, 128, 32, 60, 0.1
CONFIGS = [(k, seed) for k in (1, 2, 4) for seed in range(3)]


def projections(raw):
    return [{s: (q := torch.linalg.qr(x).Q) @ q.mT for s, x in some.items()} for some in raw]


def learn(train, z, order, raw):
    """All configurations at once, which share forwards alone: their last losses, forwards of each."""
    clean, draws = train.clean, [np.random.default_rng(seed) for _, seed in CONFIGS]
    before, adam = clean.forwards, torch.optim.Adam([one for some in raw for one in some.values()], RATE)
    others = [np.flatnonzero(order[:TRAIN] != one) for one in order[:TRAIN]]
    for _ in range(STEPS):
        rows = [rng.choice(TRAIN, BATCH, replace=False) for rng in draws]
        to = [[rng.choice(others[i]) for i in a] for a, rng in zip(rows, draws, strict=True)]
        ab, pairs = [*zip(rows, to, projections(raw), strict=True)], np.concatenate(rows)
        prompts = [train.pairs[pair] for pair in pairs]
        patches = [
            Patch(s.site, torch.cat([x[a] + (x[b] - x[a]) @ p[s] for a, b, p in ab]), s.positions(prompts))
            for s, x in z.items()
        ]
        losses = torch.zeros(len(pairs))
        for part, logits in clean.patched(pairs, patches):
            metric = task_metric(logits, [prompts[row] for row in part], clean.pairs.metric)
            losses = losses.index_put((torch.from_numpy(part),), torch.nn.functional.softplus(metric))
        adam.zero_grad()
        (losses.sum() / BATCH).backward()
        adam.step()
    loss = losses.detach().numpy().reshape(3, 3, BATCH).mean(2)
    return loss.tolist(), 2 * (clean.forwards - before) / len(CONFIGS)


def everything():
    model, task = load_model("smollm2-135m-instruct").requires_grad_(False), load_task("ioi")
    pool, n = task.sample(model.tokenizer, 100, 0), FIT_PAIRS + JUDGE_PAIRS
    drawn = held_out_pairs(task, model.tokenizer, n, pool, pool.counterfactual, seed=SEED)
    judged, fitted = range(JUDGE_PAIRS), range(JUDGE_PAIRS, n)
    judge, train = (SlotRunner.of(model, drawn.subset(some)) for some in (judged, fitted[:TRAIN]))
    fit_z, _ = read_slots(model, drawn.subset(fitted), SLOTS)
    for some in ((A20,), (A19,), (A19, A20), (A17,)):
        for n in (TRAIN, FIT_PAIRS):
            z = {s: fit_z[s][:, :n] for s in some}
            told = {v.name: v for v in variables(drawn.subset([*fitted[:n], *judged]), model.tokenizer)}
            yield from by_codes(judge, z, told["order"], n)
        yield from by_rotation(judge, train, {s: x[0] for s, x in z.items()}, told["order"].ids[0])


def row(slots, way, flipped, metric, cost, n, **more):
    found = {"slots": ", ".join(map(str, slots)), "way": way, "flipped": [*map(float, flipped)], "n": n}
    return found | {"metric": float(np.mean(metric)), "forwards": cost, **more}


def by_codes(judge, z, order, n):
    books = {s: fit_few(x, CODES, "difference") for s, x in z.items()}
    fitted, judged = (
        {s: ids(book, where[s]) for s, book in books.items()} for where in (z, {s: judge.z(s) for s in z})
    )
    values = {s: told[0].values for s, told in name_codes(fitted, judged, [order], n).items() if told}
    coded = {
        s: HeadCodebook(books[s], fitted[s], judged[s], np.arange(books[s].config.n_codes)) for s in values
    }
    found = set_variables(judge, [NamedVariable(order, coded, values)], z)
    for way, how, controls in ((f"{CODES} codes", "set", ("own", "random")), ("means", "means", ())):
        by, more = found.by[how], {control: found.by[control].flipped for control in controls}
        yield row(z, f"{way}, {n} pairs", [by.flipped], by.metric, 2 * n, found.n, **more)


def by_rotation(judge, train, z, order):
    rng, n, raw = np.random.default_rng(0), len(judge.pairs), []
    to = [[rng.choice(np.flatnonzero((order[:-n] == one) == own)) for one in order[-n:]] for own in (0, 1)]
    other, same = ({s: x[some] - judge.z(s)[0] for s, x in z.items()} for some in to)
    for k, seed in CONFIGS:
        torch.manual_seed(seed)
        raw.append({s: torch.randn(x.shape[1], k).requires_grad_() for s, x in z.items()})
    start, (losses, cost), done = projections(raw), learn(train, z, order, raw), projections(raw)
    ways = [(by, one) for by, some in ((other, done), (same, done), (other, start)) for one in some]
    ways += [(by, {s: torch.eye(x.shape[1]) for s, x in z.items()}) for by in (other, same)]
    edits = stacked([[Edit(s, judge.z(s)[0] + (by[s] @ p[s]).detach()) for s in z] for by, p in ways], n)
    after = judge.run(np.tile(np.arange(n), len(ways)), edits)
    metric, flips = after.metric.reshape(-1, n), (after.preferred.reshape(-1, n) != judge.preferred).mean(1)
    seeds, own, random = flips[:-2].reshape(3, -1, 3)
    for i, k in enumerate(dict(CONFIGS)):
        more = {"own": own[i].mean(), "random": random[i].mean(), "loss": losses[i]}
        yield row(z, f"rotation, k = {k}", seeds[i], metric[3 * i : 3 * i + 3], TRAIN + cost, n, **more)
    yield row(z, "whole z of the partner", flips[-2:-1], metric[-2], 0, n, own=flips[-1])


if __name__ == "__main__":
    torch.set_num_threads(1)
    if not arguments(__doc__, show=False).show:
        write_json(OUT, [*everything()])
    for one in read_json(OUT):
        seeds, n = one["flipped"], np.array([one["n"]])
        (low,), (high,) = wilson_bounds(np.mean(seeds) * n, n)  # as if the mean of seeds were one run's
        own, random = (f"{one[key]:.0%}" if key in one else "–" for key in ("own", "random"))
        told = f"{one['slots']:27}{one['way']:23}flips {np.mean(seeds):4.0%} ({low:.0%}–{high:.0%})".ljust(74)
        more = f"metric {one['metric']:+.2f}, own {own:>2}, random {random:>2}, cost {one['forwards']:4.0f} "
        print(told, more, *(f"{share:.0%}" for share in seeds[1:] and seeds))
