"""Steering: texts with codes set, added or forbidden, and the codes of a topic."""

from interp.bottlenecks.edits import AddCode, CodeEdit, ForbidCode, SetCode, WeightedCode, parse_codes
from interp.steering.code_set import CodeSet, FoundCode, Verdict
from interp.steering.control_vector import ControlVector
from interp.steering.find import find_codes
from interp.steering.request import SteeringRequest, named_codes
from interp.steering.steer import steer
from interp.steering.topics import Topic, load_topic, topic_names
