"""A small part of the hostile campaign; devices, which nothing may replace."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from interp.files import write_json
from tests.command_line import ONE_THREAD

SMALL = {"inputs": 12, "files": 4, "kills": 1, "calls": 12, "links": 4, "tabs": 2}


@pytest.mark.skipif(sys.platform != "linux", reason="the campaign is kept in one folder by Landlock")
def test_a_small_hostile_afternoon():
    words = [sys.executable, "-m", "benchmarks.hostile", *(f"{part}={n}" for part, n in SMALL.items())]
    root = Path(__file__).parent.parent
    done = subprocess.run(words, cwd=root, capture_output=True, text=True, check=False, env=os.environ | ONE_THREAD)
    tried = {part: int(n) for part, n in re.findall(r"^(\w+): (\d+) tried, 0 failed$", done.stdout, re.MULTILINE)}
    assert tried == SMALL and done.returncode == 0, done.stdout + done.stderr[-2000:]


def test_what_a_link_leads_to_is_not_replaced_unless_it_is_a_file(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link.json").symlink_to("pipe")
    with pytest.raises(OSError, match="no regular file"):
        write_json(tmp_path / "link.json", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "pipe"]
    assert (tmp_path / "pipe").is_fifo()
