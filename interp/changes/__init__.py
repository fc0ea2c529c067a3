"""A model and its finetuned form → what changed between them, in codes."""

from interp.changes.diff import diff
from interp.changes.result import FILES, RESULT, Diff
