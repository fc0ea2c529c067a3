"""Text as blocks of token ids, from whatever source a spec names; train and held-out never share a document."""

from interp.text.blocks import TextBlocks, load_text
from interp.text.sources import open_sources
