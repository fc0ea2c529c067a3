"""Where stderr is no terminal, long work writes a line now and then, and short work none."""

from interp import progress


def test_a_line_each_half_minute_of_whichever_stage(capsys, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    monkeypatch.setattr(progress, "_last_line", now)
    with progress.bar("reading", 10) as tell:
        now += 20
        tell(1)
    assert capsys.readouterr().err == ""
    with progress.bar("fitting 3 sites", 100) as tell:
        tell(0)
        now += 15
        tell(10, "going well")
        now += 5
        tell(10)
        now += 60
        tell(20)
    first, second = capsys.readouterr().err.splitlines()
    assert first == "fitting 3 sites  10/100  0:00:15, left 0:02:15  going well"
    assert second == "fitting 3 sites  40/100  0:01:20, left 0:02:00"
