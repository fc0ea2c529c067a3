"""What pages are called, and their icons, by the names of their folders."""

PAGES = {
    "why": ("Why", ":material/compare_arrows:"),
    "start": ("Start", ":material/home:"),
    "live": ("Live text", ":material/text_fields:"),
    "codes": ("Codes", ":material/search:"),
    "circuit": ("Circuit", ":material/account_tree:"),
    "steering": ("Steering", ":material/tune:"),
    "changes": ("Changes", ":material/difference:"),
    "evaluation": ("Evaluation", ":material/monitoring:"),
}
FIRST = "why"  # what the workbench opens on
