"""Steering: set, add or forbid codes while a model runs; find the codes of a topic."""

from interp.steering.code_set import CodeSet, FoundCode, Verdict
from interp.steering.edits import AddCode, CodeEdit, ForbidCode, SetCode, WeightedCode, parse_codes
from interp.steering.find import find_codes
from interp.steering.steer import Steered, steer
from interp.steering.topics import Topic, load_topic, topic_names

__all__ = [
    "AddCode",
    "CodeEdit",
    "ForbidCode",
    "FoundCode",
    "CodeSet",
    "SetCode",
    "Steered",
    "Topic",
    "Verdict",
    "WeightedCode",
    "find_codes",
    "load_topic",
    "parse_codes",
    "steer",
    "topic_names",
]
