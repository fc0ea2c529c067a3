"""What is gathered of each code's similarities."""

import numpy as np

from interp.codesearch.strengths import Gathered


def test_a_token_without_a_code_is_silent_for_every_code():
    gathered = Gathered(3)
    fired = np.array([[0, -1], [-1, -1], [2, 0], [-1, 1]])
    gathered.add_silent(0, np.zeros((4, 3), np.float32), fired)
    assert gathered.histogram[:, 1].sum(1).tolist() == [2, 3, 3]
