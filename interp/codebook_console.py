"""What ``interp codebook eval`` prints."""

from rich.table import Table

from interp.terminal import plain_console


def print_quality(result: dict) -> None:
    """One table per text: the model plain, through its codes, and through the controls."""
    console = plain_console()
    fit, fitted_on = result["fit"], result["fitted_on"]
    console.print(
        f"{len(result['sites'])} codebooks of {fit['n_codes']} codes at {_short(result['sites'])} of "
        f"{result['model']['spec']}, {fit['selection']} selection, magnitude {fit['magnitude']}, "
        f"fitted on {fitted_on['n_tokens']} tokens of {fitted_on['spec']}"
    )
    for text in result["texts"]:
        console.print(f"\nheld-out {text['spec']}: {text['n_blocks']} blocks of {text['context']} tokens")
        table = Table(box=None, padding=(0, 1))
        table.add_column("", no_wrap=True)
        for name in ("CE", "increase [95 %]", "KL", "top-1", "agree", "blocks"):
            table.add_column(name, justify="right", no_wrap=True)
        for row in text["rows"]:
            plain = row["condition"] == "plain"
            table.add_row(
                row["condition"],
                f"{row['ce']:.3f}",
                "" if plain else _increase(row),
                "" if plain else f"{row['kl']:.2f}",
                f"{row['accuracy']:.0%}",
                "" if plain else f"{row['agreement']:.0%}",
                str(row["n_blocks"]),
            )
        console.print(table)
        for k, usage in text["usage"].items():
            console.print(_usage_line(k, usage), soft_wrap=True)
    console.print("\nCE and KL in nats per token; increase over the same blocks of the plain model")


def _short(sites: list[str]) -> str:
    return " ".join(sites) if len(sites) <= 6 else f"{sites[0]} … {sites[-1]}"


def _increase(row: dict) -> str:
    return f"{row['ce_increase']:+.3f} [{row['ce_increase_low']:+.2f}, {row['ce_increase_high']:+.2f}]"


def _usage_line(k: str, usage: dict) -> str:
    parts = (
        f"variance explained {usage['variance_explained_mean']:.2f} on average, "
        f"{usage['variance_explained_min']:.2f} at worst, positive in "
        f"{round(usage['variance_explained_positive'] * usage['n_groups'])} of {usage['n_groups']}",
        f"dead codes {usage['dead_on_text']:.0%} here, {usage['dead_when_fitted']:.0%} when fitted",
        f"{usage['bits_per_token']:.0f} bits a token of {usage['bits_per_token_most']:.0f} "
        f"(entropy {usage['entropy_bits']:.2f} a slot)",
        f"{usage['active_codes']:.2f} different codes a vector",
    )
    return f"k={k}: " + "; ".join(parts)
