"""What makes a member, unless told otherwise: numbers that the command line and every stage share."""

THRESHOLD = 0.02
"""A head is a member when its absolute mean effect is at least this share of the clean–corrupt gap."""
CANDIDATES = 30
"""Best-scored components that are checked by activation patching."""
MIN_PAIRS = 5
"""Fewer pairs give no bootstrap interval worth the name."""
