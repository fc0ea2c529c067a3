"""``interp steer``: a prompt continued with and without a topic's codes, side by side."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from interp import DEFAULT_CODEBOOKS
from interp.cli import options
from interp.cli.options import DEFAULT_MODEL, flag, number_option, option, seed_option, share_option, whole_option
from interp.errors import InputError

_PROMPTS = ["Once upon a time, there was a little girl who"]


def steer(
    context: options.Context,
    codes: Annotated[
        str | None, option("SITE=ID,…", "codes, such as a12.h3=417,a14.h0=3; to be added with a weight, a12.h3=417*0.5")
    ] = None,
    topic: Annotated[
        str | None,
        option(
            "TOPIC",
            "dragon, slide, friend, flower, fire, baby, princess, and horse, rain, boat, doctor, by which the "
            "ranking was developed: finds its codes",
        ),
    ] = None,
    positive: Annotated[Path | None, option("FILE", "texts with the behaviour, one a line: finds its codes")] = None,
    negative: Annotated[Path | None, option("FILE", "texts without it (default: everyday sentences)")] = None,
    prompt: Annotated[list[str], option("TEXT", "what is continued; repeatable")] = _PROMPTS,
    samples: Annotated[int, whole_option(most=10**4, help="texts a prompt; of several, rates are told")] = 1,
    count: Annotated[
        str | None,
        option("WORD,…", "words of which the fraction of texts that hold one is told (default: the topic's)"),
    ] = None,
    tokens: Annotated[int, whole_option(help="new tokens")] = 60,
    top_k: Annotated[
        int | None, whole_option(help="of the codes found, how many are used, best first (default: all)")
    ] = None,
    slots: Annotated[
        int | None, whole_option(help="with --set and k > 1: how many of a vector's k codes are replaced (default: 1)")
    ] = None,
    add: Annotated[
        float | None,
        option(
            "NUMBER",
            "add NUMBER × weight × (code − mean of its codebook) to what is there "
            "(what --topic and --positive do, with 2.5)",
        ),
    ] = None,
    set_them: Annotated[
        bool, flag("--set", "put the codes in place of those that are there (what --codes does)")
    ] = False,
    forbid: Annotated[bool, flag("--forbid", "never choose the codes, but the next best")] = False,
    token_fraction: Annotated[float, share_option(help="steer at this fraction of the tokens")] = 1.0,
    positions: Annotated[
        str, option("WHERE", "generated, generated:N (from the N-th on), prompt or all")
    ] = "generated",
    when: Annotated[
        str | None,
        option(
            "GATE",
            "only where this holds: a12.h3=417 (the code is there), token:REGEX (the token matches), label:TEXT; "
            "firing: as far as what is added is there already",
        ),
    ] = None,
    by: Annotated[
        Literal["difference", "detection"] | None,
        option(
            "RULE",
            "what ranks codes: difference (what texts with it have more), detection (what tells of it) "
            "(default: difference)",
        ),
    ] = None,
    random_baseline: Annotated[
        bool, flag("--random-baseline", "a third text, with random codes of the same sites")
    ] = False,
    export: Annotated[
        Path | None,
        option(
            "FILE",
            "also write what is added as a control vector, .gguf for llama.cpp or .safetensors, and a text under it",
        ),
    ] = None,
    vector: Annotated[
        Path | None, option("FILE", "a text under this control vector too, .gguf or .safetensors")
    ] = None,
    chat: Annotated[bool, flag("--chat", "as a message in the model's chat template")] = False,
    temperature: Annotated[float, number_option(help="0 takes the likeliest token")] = 0.7,
    seed: Annotated[int, seed_option("texts, fraction and split")] = 0,
    codebooks: options.CodebooksOption = DEFAULT_CODEBOOKS,
    k: options.CodesPerVectorOption = None,
    error_term: Annotated[
        bool, flag("--error-term/--splice", "change only what the codes say, or run all sites on codes")
    ] = True,
    json_file: Annotated[Path | None, option("FILE", "also write codes, texts and rates here", "--json")] = None,
    overwrite: options.OverwriteOption = False,
    model: options.SomeModelOption = DEFAULT_MODEL,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = "float32",
) -> None:
    """Continue a prompt with and without codes; perplexity is that of the model without them."""
    if (add is not None) + forbid + set_them > 1:
        raise InputError("--add, --set and --forbid: codes are added, set or forbidden, choose one")
    towards = sum(choice is not None for choice in (codes, topic, positive))
    if towards > 1 or (not towards and vector is None):
        raise InputError("say what to steer towards: one of --codes, --topic and --positive, or a --vector")
    if not towards:
        of_codes = {"--add": add, "--slots": slots, "--top-k": top_k, "--by": by, "--when": when}
        of_codes |= {"--set": set_them or None, "--forbid": forbid or None}
        of_codes["--random-baseline"] = random_baseline or None
        for name, value in of_codes.items():
            if value is not None:
                raise InputError(f"{name} is about codes: give --codes, --topic or --positive beside --vector")
    if negative is not None and positive is None:
        raise InputError("--negative goes with --positive: name the texts with the behaviour too")
    if codes is not None and (top_k is not None or by is not None):
        raise InputError("--top-k and --by go with --topic and --positive: named codes are not looked for")
    # codes that are named are set, those that are found are added, unless it is said otherwise
    added = add is not None or (codes is None and not (set_them or forbid))
    how: Literal["set", "added", "forbidden"] = "added" if added else "forbidden" if forbid else "set"
    if slots is not None and how != "set":
        raise InputError("--slots goes with codes that are set: name them, or give --set")
    if samples > 1 and temperature == 0:
        raise InputError(f"--samples {samples} at --temperature 0: all texts of a prompt would be the same")
    if export is not None:
        constant = {
            "--vector": vector is None,
            "no codes": towards == 1,
            "--set or --codes without --add": how != "set",
            "--forbid": how != "forbidden",
            "--when": when is None,
            "--token-fraction": token_fraction == 1,
            f"--positions {positions}": positions in ("generated", "all"),
            "--splice": error_term,
        }
        if refused := [name for name, fits in constant.items() if not fits]:
            raise InputError(
                f"--export with {refused[0]}: a control vector is added at every token, whatever is there, so only "
                "codes that are added everywhere can be exported"
            )
    if json_file is not None:
        from interp.files import check_file

        check_file(json_file, "--json", request=options.request_of_command(context), overwrite=overwrite)
    if files := [file for file in (export, vector) if file is not None]:
        from interp.files import check_file
        from interp.steering.control_vector import ControlVector, checked_suffix

        checked_suffix(files[0])
        if export is not None:
            check_file(export, "--export", overwrite=overwrite)

    from interp.bottlenecks.edits import EditScope, code_edits
    from interp.bottlenecks.gates import LABEL
    from interp.bottlenecks.store import Codebooks
    from interp.codesearch.levels import has_levels
    from interp.steering.request import SteeringRequest, gate_of, named_codes
    from interp.steering.topics import load_topic, neutral_texts, read_lines

    # a mistake should not wait for the model
    named = Codebooks.from_pretrained(codebooks) if has_levels(f"{codes} {when}") else {}
    weighted = named_codes(codes, named, how) if codes is not None else []
    if has_levels(when or ""):
        when = gate_of(when, named, weighted)
    EditScope(positions, when=None if (when or "").startswith(LABEL) else when)
    code_edits(weighted, how)
    words = tuple(word.strip() for word in (count or "").split(",") if word.strip())
    texts_with: Sequence[str] = ()
    texts_without: Sequence[str] = ()
    if topic is not None:
        chosen = load_topic(topic)
        texts_with, texts_without, words = chosen.positive, chosen.negative, words or chosen.words
    elif positive is not None:
        texts_with = read_lines(positive)
        texts_without = neutral_texts() if negative is None else read_lines(negative)

    from interp.cli.render_codes import as_json, print_found, print_rates, print_side_by_side
    from interp.codesearch import labels_of
    from interp.files import write_json
    from interp.models import load_model
    from interp.progress import bar
    from interp.steering.cache import find_or_recall
    from interp.steering.code_set import SCALE
    from interp.steering.find import RANKINGS

    loaded = load_model(model, device=device, dtype=dtype)
    # a control vector needs no codebooks: its model may have none
    books = Codebooks.from_pretrained(codebooks, loaded, k=k) if towards or not error_term else {}
    if vector is not None:
        ControlVector.load(vector, loaded)
    if isinstance(books, Codebooks) and towards and not weighted:
        code_set = find_or_recall(loaded, books, texts_with, texts_without, by=by or RANKINGS[0], seed=seed, stage=bar)
        n = min(top_k or len(code_set), len(code_set))
        weighted = code_set.named(n, how)
        if not weighted:
            raise InputError(
                f"none of the {n} codes found lies in the direction in which the texts differ, so there is nothing to "
                "add: give --set to put them in place of others"
                + (", or a larger --top-k" if n < len(code_set) else "")
            )
        print_found(code_set, weighted, labels_of(books))
        if how == "added" and (doubt := code_set.doubt()):
            typer.echo(f"warning: {doubt}", err=True)
    request = SteeringRequest(
        prompts=tuple(prompt),
        codes=tuple(weighted),
        how=how,
        scale=SCALE if add is None else add,
        slots=slots or 1,
        positions=positions,
        fraction=token_fraction,
        when=gate_of(when, books, weighted),
        n_tokens=tokens,
        samples=samples,
        temperature=temperature,
        seed=seed,
        chat=chat,
        random_baseline=random_baseline,
        vector=None if vector is None else str(vector),
        error_term=error_term,
        model=model,
        codebooks=codebooks,
        k=k,
        device=device,
        dtype=dtype,
    )
    if export is not None:
        exported = request.control_vector(loaded, books)
        exported.save(export)
        request = replace(request, vector=str(export))
    texts = request.run(loaded, books, stage=bar)
    if json_file is not None:  # first: what reads the output may stop reading
        written = as_json(texts, request.conditions(loaded, books), words, request)
        write_json(json_file, {"request": options.request_of_command(context), **written})
    print_side_by_side({name: continued[: len(prompt)] for name, continued in texts.items()})
    if samples > 1 or count is not None:
        print_rates(texts, words)
    if json_file is not None:
        typer.echo(f"saved    {json_file}")
    if export is not None:
        typer.echo(f"exported {export}: blocks {exported.layers[0]} to {exported.layers[-1]}, added at every token")
        if export.suffix == ".gguf":
            typer.echo(f"next     llama-cli -m MODEL.gguf --control-vector {export}")
    typer.echo("\n" + request.program())  # no wrapping, so that it can be copied
