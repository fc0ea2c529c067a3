"""Text as blocks of token ids, from whatever source a spec names; train and held-out never share a document."""

from interp.text.blocks import HELDOUT_SHARE, TextBlocks, load_text
from interp.text.sources import SOURCES, TextSource, open_sources

__all__ = ["HELDOUT_SHARE", "SOURCES", "TextBlocks", "TextSource", "load_text", "open_sources"]
