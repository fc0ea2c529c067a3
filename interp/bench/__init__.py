"""The table of methods: every method on the same pairs, judged by the same references; see docs/evaluation.md."""
