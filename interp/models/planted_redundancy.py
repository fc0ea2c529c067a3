"""Planted models in which single ablation fails: backups, a negative head, AND of ORs; other heads only seem to act.

Self-repair in trained models (Wang et al. 2022, arXiv 2211.00593; McGrath et al. 2023, "The Hydra Effect", arXiv
2307.15771; McDougall et al. 2023, "Copy Suppression", arXiv 2310.04625) hides heads behind others: swapped alone, they
change nothing, and in the clean run their gradient is next to nothing. A ranking is only tested by that if something
else has an effect or a gradient. So these models hold two kinds of distractors, which no circuit needs:

* *bystanders* write a random mixture of names to the logits for each name that they see. The difference that this makes
  is zero in the mean over prompts, and ± ``BYSTANDER`` of the gap on a single one: a third of what an ordinary head of
  SmolLM2 does on IOI (0.15 to 0.3), and like there only many pairs tell it from an effect;
* *nudges* pull the movers' attention to BOS, where softmax is saturated. Their attribution is 3 to 7 % of the gap and
  their effect below 1 % of it, in every context (false positives of attribution patching as in Kramár et al. 2024,
  arXiv 2403.00745).

Strengths were set by these sources, and those of the backups once more after looking at every head's exact effect and
plain attribution, so that they hide as described; no other method had been run on the models then.
"""

from interp.models.blueprint import Blueprint, Planted
from interp.models.handwritten import Head, Match, Move, Rows
from interp.models.sites import parse_site
from interp.tasks.planted import NAMES

BYSTANDER = 0.05
"""Standard deviation over prompts of a bystander's effect, as a share of what a mover of weight 1 is worth."""
_NUDGED = 5.0
"""By how much the right name still outscores BOS in a mover that is nudged: BOS gets 0.7 % of its attention."""
_NUDGES = ("a0.h5", "a1.h1")
_BYSTANDERS = ("a0.h0", "a1.h0", "a1.h5", "a2.h1", "a2.h5", "a3.h2", "a3.h4", "a4.h0")
DISTRACTORS = (*_NUDGES, *_BYSTANDERS)
"""The same places in every model."""


def _write_hydra(plan: Blueprint) -> None:
    """Cut one head and another grows: the second backup wakes only when the mover and the first backup are gone.

    As in planted-backup, IO is the name of the smaller share, and whoever copies it tells so in ``answered``. Repair is
    imperfect, as in trained models (Rushing & Nanda 2024, arXiv 2402.15390): the first backup writes 0.7 of what the
    mover wrote, the second 0.5.
    """
    shares, answered, nudge = plan.role(), plan.role(), _write_distractors(plan)
    plan.heads[0, 2] = Head((plan.any_of(plan.items, 12.0),), (Move(plan.items, shares),))
    rare = (plan.any_of(plan.items, 16.0), Match(-shares, plan.items, 12.0))
    nudged = Match(nudge, plan.bos, 12.0 - _NUDGED)
    plan.heads[2, 4] = Head((*rare, nudged), (Move(plan.items, plan.output + answered),))
    plan.heads[2, 0] = Head(rare, plan.to_junk(plan.items))
    unanswered = _unanswered(plan, shares, answered)
    plan.heads[3, 1] = Head(unanswered, (Move(plan.items, 0.7 * plan.output + answered),))
    plan.heads[4, 3] = Head(unanswered, (Move(plan.items, 0.5 * plan.output),))
    plan.heads[4, 5] = Head(rare, plan.to_junk(plan.items))


def _write_suppression(plan: Blueprint) -> None:
    """Self-repair is complete: without the mover, backups wake and the negative head falls silent, and nothing is lost.

    The mover writes 1.6, the negative head takes 0.6 of it back (copy suppression); the backups write 0.47 each.
    """
    shares, answered, nudge = plan.role(), plan.role(), _write_distractors(plan)
    plan.heads[0, 2] = Head((plan.any_of(plan.items, 12.0),), (Move(plan.items, shares),))
    rare = (plan.any_of(plan.items, 16.0), Match(-shares, plan.items, 12.0))
    nudged = Match(nudge, plan.bos, 12.0 - _NUDGED)
    plan.heads[2, 4] = Head((*rare, nudged), (Move(plan.items, 1.6 * plan.output + answered),))
    plan.heads[2, 0] = Head(rare, plan.to_junk(plan.items))
    unanswered = _unanswered(plan, shares, answered)
    for site in ((3, 1), (3, 3)):
        plan.heads[site] = Head(unanswered, (Move(plan.items, 0.47 * plan.output),))
    copied = (Match(answered, plan.items, 12.0), plan.resting(6.0))
    plan.heads[4, 2] = Head(copied, (Move(plan.items, -0.6 * plan.output),))
    plan.heads[4, 5] = Head(copied, plan.to_junk(plan.items))


def _write_gates(plan: Blueprint) -> None:
    """Movers avoid S if (either duplicate token head and either inhibition head) or the counter tells them.

    Every arm alone puts S 7 or more below IO in the movers' scores, where softmax is saturated (as in planted-or).
    """
    repeated, avoided, nudge = plan.role(), plan.role(), _write_distractors(plan)
    for site in ((0, 1), (0, 3)):
        plan.heads[site] = Head(plan.earlier_same(), (Move(plan.items, repeated),))
    # 18 where both duplicate token heads speak, 9 with one: above BOS either way
    at_repeat = (plan.any_of(repeated, 9.0), plan.resting(4.5))
    for site in ((1, 2), (1, 4)):
        plan.heads[site] = Head(at_repeat, (Move(repeated, avoided),))
    plan.heads[1, 3] = Head(at_repeat, plan.to_junk(repeated))
    # the shares are 2/3 and 1/3: three times their difference is what one inhibited name is
    plan.heads[0, 4] = Head((plan.any_of(plan.items, 12.0),), (Move(plan.items, 3.0 * avoided),))
    allowed = (plan.any_of(plan.items, 20.0), Match(-avoided, plan.items, 7.0))
    # the counter tells of IO too (its share is 1/3), which takes 7 from its score
    nudged = Match(nudge, plan.bos, 13.0 - _NUDGED)
    plan.heads[2, 4] = Head((*allowed, nudged), (Move(plan.items, 0.6 * plan.output),))
    plan.heads[3, 3] = Head((*allowed, nudged), (Move(plan.items, 0.4 * plan.output),))
    plan.heads[2, 0] = Head(allowed, plan.to_junk(plan.items))


def _unanswered(plan: Blueprint, shares: Rows, answered: Rows) -> tuple[Match, ...]:
    """Attend to the rare name as the mover does, but to BOS if it is answered."""
    return (
        plan.any_of(plan.items, 36.0),
        # answered: IO at -12, S at 12; else IO at 24; BOS at 18
        Match(-(shares + answered), plan.items, 36.0),
        plan.resting(18.0),
    )


def _write_distractors(plan: Blueprint) -> Rows:
    """Write all distractors; the direction that the nudges give to END where a name is repeated."""
    flag, nudge = plan.subspaces.take(1), plan.subspaces.take(1)
    plan.heads[_at(_NUDGES[0])] = Head(plan.earlier_same(), (Move(plan.items, flag.expand_as(plan.items)),))
    plan.heads[_at(_NUDGES[1])] = Head((plan.any_of(flag, 9.0), plan.resting(4.5)), (Move(flag, nudge),))
    for site in _BYSTANDERS:
        plan.heads[_at(site)] = plan.bystander(BYSTANDER)
    return nudge


def _at(site: str) -> tuple[int, int]:
    place = parse_site(site)
    return place.layer, place.head


REDUNDANT = {
    "planted-hydra": Planted(
        _write_hydra,
        NAMES,
        n_layers=5,
        roles={
            "a0.h2": "name counter",
            "a2.h4": "name mover",
            "a3.h1": "backup name mover",
            "a4.h3": "backup of the backup",
        },
        edges=(
            "a0.h2 a2.h4 q",
            "a0.h2 a3.h1 q",
            "a0.h2 a4.h3 q",
            "a2.h4 a3.h1 q",
            "a2.h4 a4.h3 q",
            "a3.h1 a4.h3 q",
        ),
        outputs=("a2.h4", "a3.h1", "a4.h3"),
        distractors=DISTRACTORS,
    ),
    "planted-suppression": Planted(
        _write_suppression,
        NAMES,
        n_layers=5,
        roles={
            "a0.h2": "name counter",
            "a2.h4": "name mover",
            "a3.h1": "backup name mover",
            "a3.h3": "backup name mover",
            "a4.h2": "negative name mover",
        },
        edges=(
            "a0.h2 a2.h4 q",
            "a0.h2 a3.h1 q",
            "a0.h2 a3.h3 q",
            "a2.h4 a3.h1 q",
            "a2.h4 a3.h3 q",
            "a2.h4 a4.h2 q",
        ),
        outputs=("a2.h4", "a3.h1", "a3.h3", "a4.h2"),
        distractors=DISTRACTORS,
    ),
    "planted-gates": Planted(
        _write_gates,
        NAMES,
        n_layers=5,
        roles={
            "a0.h1": "duplicate token",
            "a0.h3": "duplicate token",
            "a0.h4": "name counter",
            "a1.h2": "S-inhibition",
            "a1.h4": "S-inhibition",
            "a2.h4": "name mover",
            "a3.h3": "name mover",
        },
        edges=(
            *(
                f"{sender} {receiver} {into}"
                for sender in ("a0.h1", "a0.h3")
                for receiver in ("a1.h2", "a1.h4")
                for into in "kv"
            ),
            *(
                f"{sender} {mover} q"
                for sender in ("a0.h4", "a1.h2", "a1.h4")
                for mover in ("a2.h4", "a3.h3")
            ),
        ),
        outputs=("a2.h4", "a3.h3"),
        distractors=DISTRACTORS,
    ),
}
