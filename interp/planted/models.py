"""Planted models: small attention-only models whose circuits are known because they were written by hand.

They are ground truth for every method that claims to find a circuit: which heads matter, in which sign, and
over which edges, is decided here and not measured. All are built in memory from a fixed seed.

Attention margins are about 4 (95 to 99 % of the weight on the right token), so that gradients still flow
through the softmax. Most heads are decoys; some carry the very information that the circuit uses, but write
it where nothing reads.

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

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedTokenizerFast

from interp.errors import InputError
from interp.models.sites import parse_site
from interp.planted.spec import N_CTX, Blueprint, Head, Match, Move, Planted, Rows, paths
from interp.planted.tasks import NAMES, NOUNS, SPECIAL_TOKENS, VOCABULARY

BYSTANDER = 0.05
"""Standard deviation over prompts of a bystander's effect, as a share of what a mover of weight 1 is worth."""
_NUDGED = 5.0
"""By how much the right name still outscores BOS in a mover that is nudged: BOS gets 0.7 % of its attention."""
_NUDGES = ("a0.h5", "a1.h1")
_BYSTANDERS = ("a0.h0", "a1.h0", "a1.h5", "a2.h1", "a2.h5", "a3.h2", "a3.h4", "a4.h0")
DISTRACTORS = (*_NUDGES, *_BYSTANDERS)  # the same places in every model


def _write_mover(plan: Blueprint, weight: float) -> tuple[tuple[Match, ...], tuple[Match, ...], Rows]:
    """Write distractors, a counter of names and a nudged mover, which tells what it copied in ``answered``; return
    attention to the rare name as the mover's, the same but to BOS if that name is answered, and ``answered``."""
    shares, answered, nudge = plan.role(), plan.role(), _write_distractors(plan)
    plan.heads[0, 2] = Head((plan.any_of(plan.items, 12.0),), (Move(plan.items, shares),))
    rare = (plan.any_of(plan.items, 16.0), Match(-shares, plan.items, 12.0))
    nudged = Match(nudge, plan.bos, 12.0 - _NUDGED)
    plan.heads[2, 4] = Head((*rare, nudged), (Move(plan.items, weight * plan.output + answered),))
    plan.heads[2, 0] = Head(rare, plan.to_junk(plan.items))
    unanswered = (
        plan.any_of(plan.items, 36.0),
        # answered: IO at -12, S at 12; else IO at 24; BOS at 18
        Match(-(shares + answered), plan.items, 36.0),
        plan.resting(18.0),
    )
    return rare, unanswered, answered


def _write_hydra(plan: Blueprint) -> None:
    """Cut one head and another grows: the second backup wakes only when the mover and the first backup are gone.

    As in planted-backup, IO is the name of the smaller share, and whoever copies it tells so in ``answered``. Repair is
    imperfect, as in trained models (Rushing & Nanda 2024, arXiv 2402.15390): the first backup writes 0.7 of what the
    mover wrote, the second 0.5.
    """
    rare, unanswered, answered = _write_mover(plan, 1.0)
    plan.heads[3, 1] = Head(unanswered, (Move(plan.items, 0.7 * plan.output + answered),))
    plan.heads[4, 3] = Head(unanswered, (Move(plan.items, 0.5 * plan.output),))
    plan.heads[4, 5] = Head(rare, plan.to_junk(plan.items))


def _write_suppression(plan: Blueprint) -> None:
    """Self-repair is complete: without the mover, backups wake and the negative head falls silent, and nothing is lost.

    The mover writes 1.6, the negative head takes 0.6 of it back (copy suppression); the backups write 0.47 each.
    """
    _, unanswered, answered = _write_mover(plan, 1.6)
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


def _write_distractors(plan: Blueprint) -> Rows:
    """Write all distractors; the direction that the nudges give to END where a name is repeated."""
    flag, nudge = plan.take(1), plan.take(1)
    plan.heads[_at(_NUDGES[0])] = Head(plan.earlier_same(), (Move(plan.items, flag.expand_as(plan.items)),))
    plan.heads[_at(_NUDGES[1])] = Head((plan.any_of(flag, 9.0), plan.resting(4.5)), (Move(flag, nudge),))
    for site in _BYSTANDERS:
        plan.heads[_at(site)] = plan.bystander(BYSTANDER)
    return nudge


def _at(site: str) -> tuple[int, int]:
    place = parse_site(site)
    assert place.head is not None
    return place.layer, place.head


def _write_induction(plan: Blueprint) -> None:
    """Each token is told which one is before it; induction heads look for the current token there."""
    previous = plan.role()
    matches = (Match(plan.items, previous, 9.0), plan.resting(4.5))
    plan.heads[0, 3] = Head((plan.back(1),), (Move(plan.items, previous),))
    plan.heads[1, 1] = Head(matches, (Move(plan.items, 0.6 * plan.output),))
    plan.heads[2, 4] = Head(matches, (Move(plan.items, 0.4 * plan.output),))
    # finds B as the induction heads do, but tells nobody
    plan.heads[1, 5] = Head(matches, plan.to_junk(plan.items))


def _write_backup(plan: Blueprint) -> None:
    """IO is the name with the smaller share among the names so far.

    The mover also writes what it copied into ``answered``. The backups want the rare name as the mover does,
    but not one that is answered already; the negative head looks for the answered name and writes against it
    (copy suppression, McDougall et al. 2023, arXiv 2310.04625).
    """
    shares, answered = plan.role(), plan.role()
    plan.heads[0, 2] = Head((plan.any_of(plan.items, 12.0),), (Move(plan.items, shares),))
    rare = (plan.any_of(plan.items, 12.0), Match(-shares, plan.items, 12.0))
    plan.heads[1, 4] = Head(rare, (Move(plan.items, plan.output + answered),))
    plan.heads[1, 0] = Head(rare, plan.to_junk(plan.items))
    rare_unanswered = (
        plan.any_of(plan.items, 24.0),
        # one row per name compares both: the name's share, and whether it is answered
        Match(-(shares + answered), plan.items, 24.0),
        plan.resting(12.0),
    )
    for site in ((2, 1), (2, 3)):
        plan.heads[site] = Head(rare_unanswered, (Move(plan.items, 0.25 * plan.output),))
    copied = (Match(answered, plan.items, 9.0), plan.resting(4.5))
    plan.heads[3, 2] = Head(copied, (Move(plan.items, -0.3 * plan.output),))
    plan.heads[3, 5] = Head(copied, plan.to_junk(plan.items))


def _write_inhibiting(plan: Blueprint) -> Rows:
    """S2 learns which name it repeats, and the inhibition head tells END; return where it does."""
    repeated, avoided = plan.role(), plan.role()
    plan.heads[0, 1] = Head(plan.earlier_same(), (Move(plan.items, repeated),))
    at_repeat = (plan.any_of(repeated, 9.0), plan.resting(4.5))
    plan.heads[1, 2] = Head(at_repeat, (Move(repeated, avoided),))
    plan.heads[1, 4] = Head(at_repeat, plan.to_junk(repeated))
    return avoided


def _write_movers(plan: Blueprint, *allowed: Match) -> None:
    plan.heads[2, 0] = Head(allowed, (Move(plan.items, 0.6 * plan.output),))
    plan.heads[3, 5] = Head(allowed, (Move(plan.items, 0.4 * plan.output),))
    plan.heads[2, 3] = Head(allowed, plan.to_junk(plan.items))


def _write_inhibition(plan: Blueprint) -> None:
    """The movers avoid the name that is repeated."""
    avoided = _write_inhibiting(plan)
    _write_movers(plan, plan.any_of(plan.items, 9.0), Match(-avoided, plan.items, 4.0))


def _write_or(plan: Blueprint) -> None:
    """An OR-gate: the movers avoid S when either of two heads tells END, and attention saturates, so one is enough.

    One arm is the inhibition path; the other counts names at END, of which S has the larger share. Both write into
    ``avoided``. Each alone puts S 7 below IO in the movers' scores, both together 14: all the same after a softmax.
    """
    avoided = _write_inhibiting(plan)
    # the shares are 2/3 and 1/3: three times their difference is what one inhibited name is
    plan.heads[0, 4] = Head((plan.any_of(plan.items, 12.0),), (Move(plan.items, 3.0 * avoided),))
    _write_movers(plan, plan.any_of(plan.items, 20.0), Match(-avoided, plan.items, 7.0))


_MODELS = {
    "planted-induction": Planted(
        _write_induction,
        NOUNS,
        n_layers=3,
        heads={"a0.h3": "previous token", "a1.h1": "induction", "a2.h4": "induction"},
        edges=paths("a0.h3", "a1.h1 a2.h4", "k"),
        outputs=("a1.h1", "a2.h4"),
    ),
    "planted-backup": Planted(
        _write_backup,
        NAMES,
        n_layers=4,
        heads={
            "a0.h2": "name counter",
            "a1.h4": "name mover",
            "a2.h1": "backup name mover",
            "a2.h3": "backup name mover",
            "a3.h2": "negative name mover",
        },
        edges=paths("a0.h2", "a1.h4 a2.h1 a2.h3", "q") + paths("a1.h4", "a2.h1 a2.h3 a3.h2", "q"),
        outputs=("a1.h4", "a2.h1", "a2.h3", "a3.h2"),
    ),
    "planted-inhibition": Planted(
        _write_inhibition,
        NAMES,
        n_layers=4,
        heads={"a0.h1": "duplicate token", "a1.h2": "S-inhibition", "a2.h0": "name mover", "a3.h5": "name mover"},
        edges=paths("a0.h1", "a1.h2", "kv") + paths("a1.h2", "a2.h0 a3.h5", "q"),
        outputs=("a2.h0", "a3.h5"),
    ),
    "planted-or": Planted(
        _write_or,
        NAMES,
        n_layers=4,
        heads={
            "a0.h1": "duplicate token",
            "a0.h4": "name counter",
            "a1.h2": "S-inhibition",
            "a2.h0": "name mover",
            "a3.h5": "name mover",
        },
        edges=paths("a0.h1", "a1.h2", "kv") + paths("a1.h2 a0.h4", "a2.h0 a3.h5", "q"),
        outputs=("a2.h0", "a3.h5"),
    ),
    "planted-hydra": Planted(
        _write_hydra,
        NAMES,
        n_layers=5,
        heads={
            "a0.h2": "name counter",
            "a2.h4": "name mover",
            "a3.h1": "backup name mover",
            "a4.h3": "backup of the backup",
        },
        edges=paths("a0.h2", "a2.h4 a3.h1 a4.h3", "q")
        + paths("a2.h4", "a3.h1 a4.h3", "q")
        + paths("a3.h1", "a4.h3", "q"),
        outputs=("a2.h4", "a3.h1", "a4.h3"),
        distractors=DISTRACTORS,
    ),
    "planted-suppression": Planted(
        _write_suppression,
        NAMES,
        n_layers=5,
        heads={
            "a0.h2": "name counter",
            "a2.h4": "name mover",
            "a3.h1": "backup name mover",
            "a3.h3": "backup name mover",
            "a4.h2": "negative name mover",
        },
        edges=paths("a0.h2", "a2.h4 a3.h1 a3.h3", "q") + paths("a2.h4", "a3.h1 a3.h3 a4.h2", "q"),
        outputs=("a2.h4", "a3.h1", "a3.h3", "a4.h2"),
        distractors=DISTRACTORS,
    ),
    "planted-gates": Planted(
        _write_gates,
        NAMES,
        n_layers=5,
        heads={
            "a0.h1": "duplicate token",
            "a0.h3": "duplicate token",
            "a0.h4": "name counter",
            "a1.h2": "S-inhibition",
            "a1.h4": "S-inhibition",
            "a2.h4": "name mover",
            "a3.h3": "name mover",
        },
        edges=paths("a0.h1 a0.h3", "a1.h2 a1.h4", "kv") + paths("a0.h4 a1.h2 a1.h4", "a2.h4 a3.h3", "q"),
        outputs=("a2.h4", "a3.h3"),
        distractors=DISTRACTORS,
    ),
}


def planted_names() -> tuple[str, ...]:
    """The planted models there are."""
    return tuple(_MODELS)


def load_planted_model(name: str) -> TransformerBridge:
    """Build a planted model: float32, eval, parameters frozen, with its word-level tokenizer."""
    planted = planted_truth(name)
    plan = Blueprint(planted.items, planted.n_layers, seed=list(_MODELS).index(name))
    planted.write(plan)
    plan.fill_with_decoys()
    model = plan.build()
    model.tokenizer = _tokenizer(name)
    return model


def planted_truth(name: str) -> Planted:
    """The circuit that was written into the planted model of this name."""
    if name not in _MODELS:
        raise InputError(f"unknown planted model {name!r}: there are {', '.join(_MODELS)}")
    return _MODELS[name]


def _tokenizer(name: str) -> PreTrainedTokenizerFast:
    bos, eos, unknown = SPECIAL_TOKENS
    words = Tokenizer(WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token=unknown))
    words.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        name_or_path=name,
        bos_token=bos,
        eos_token=eos,
        pad_token=eos,
        unk_token=unknown,
        padding_side="right",
        model_max_length=N_CTX,
        clean_up_tokenization_spaces=False,
    )
