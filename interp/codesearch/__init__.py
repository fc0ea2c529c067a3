"""The codes of a corpus on disk, and what can be asked of them. See ``docs/code_index.md``."""

from interp.codesearch.build import build_parts
from interp.codesearch.coarse import CoarseIndex
from interp.codesearch.contexts import CodeContext, code_contexts, context_at
from interp.codesearch.explain import Endpoint, Explanation, explain_codes, explanations_of
from interp.codesearch.heads import HeadSummary, summarise_heads
from interp.codesearch.index import CodeIndex, Similarities, build_index
from interp.codesearch.labels import Labels, label_index, labels_of
from interp.codesearch.layout import Book
from interp.codesearch.levels import coarse_code, coarse_level, fine_codes
from interp.codesearch.page import CodePage, LogitLens, code_page, logit_lens, nearest_codes, related_codes
from interp.codesearch.search import CodeHit, CodeScores, find_regex, search_regex, search_token
from interp.codesearch.similar import Similar, all_prompt_codes, prompt_codes, search_similar
