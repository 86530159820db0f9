"""What terminals and logs are shown. test_training.py has a whole run on a terminal."""

import os
import subprocess
import sys
import time

import pytest
import terminal
from conftest import ROOT

from saddle_jax.host import console

SAYS = """
from saddle_jax.host import console, output
from saddle_jax.host.progress import Progress
output.keep_going()
console.panel("saddle_jax 1", "an experiment", [("plan", ["3 steps " + "of a plan with many words " * 4, "plain SGD"])])
progress = Progress(300, 32, 0, steps_per_epoch=100)
progress.doing("compiling the step")
progress.say("start", "now")
progress.begin(1)
progress.update(100, "loss 1.2345", "lr 0.1", *(f"another{n} 0.5" for n in range(5)))
progress.evaluated("test step 100: accuracy 50.00  head 90.1  mid 60.2  tail 0.0")
progress.say("note", "a remark that takes more than a line of any terminal, " * 3)
print("from elsewhere [not markup] caf\\udce9")
progress.update(300, "loss 1.0000", "lr 0.1")
rows = [["accuracy", "50.00", "600 images in the [test] set"], ["tail", "0.0", "3: cat, lynx, ocelot"]]
console.table(console.Table(["", "last and best on test", "classes"], rows, "lrl", "Test accuracy"))
console.hide()
console.say("done", "/a/folder")
"""


def environment(**changes):
    kept = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS")}
    # As in a locale of UTF-8. Python's streams are laxer in the C locale.
    fixed = {"TERM": "xterm-256color", "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8:strict"}
    return {**kept, **fixed, **changes}


@pytest.mark.parametrize("columns", [40, 80])
@pytest.mark.parametrize("changes", [{}, {"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=str)
def test_a_terminal_of_any_width(columns, changes):
    code, written = terminal.run([sys.executable, "-c", SAYS], columns, env=environment(**changes))
    assert code == 0, written
    lines = terminal.lines(written)
    # The line of a log is no shorter than its count, speed, and time left.
    assert [line for line in lines if len(line) > columns and not (changes and " step " in line)] == []
    assert ("\x1b[" in written) == (not changes)
    text = " ".join(lines)
    assert r"from elsewhere [not markup] caf\udce9" in lines and ("cat, lynx, ocelot" in text) == (columns == 80)
    live = ["compiling the step ... 0s", "epoch 1/3 ━", "33%  ETA ", "tail 0.0"]
    assert [part in text for part in live] == [not changes] * 4
    assert "another4" in text or changes
    assert lines[-2] == "done   /a/folder"


def test_a_log_gets_a_line_for_each_fact():
    found = subprocess.run([sys.executable, "-c", SAYS], env=environment(), capture_output=True, text=True, check=True)
    assert "\x1b" not in found.stdout and "\r" not in found.stdout and not found.stderr
    lines = found.stdout.splitlines()
    assert lines[0] == "saddle_jax 1  an experiment" and lines[1].endswith("many words ; plain SGD")
    counted = [line for line in lines if " step " in line]
    assert ["step 100/300 33.3%  loss 1.2345  lr 0.1" in counted[0], "step 300/300 100.0%" in counted[1]] == [True] * 2
    assert max(map(len, counted)) <= 80 and "another4" not in counted[0]
    assert lines[-4:] == [
        "          last and best on test  classes",
        "accuracy                  50.00  600 images in the [test] set",
        "tail                        0.0  3: cat, lynx, ocelot",
        "done   /a/folder",
    ]


def test_a_log_is_told_what_takes_long_while_it_does(capsys, monkeypatch):
    monkeypatch.setattr(console, "_LONG", 0.1)
    with console.doing("reading the images"):
        time.sleep(0.5)
        assert capsys.readouterr().out == "now    reading the images ...\n"
    for quiet in (True, False):
        with console.doing("a short thing", quiet=quiet):
            time.sleep(0.5 * quiet)
    assert not capsys.readouterr().out


@pytest.mark.faults("O1")
def test_a_terminal_that_closes_does_not_end_the_work(tmp_path):
    waits = SAYS.replace("progress.begin(1)", "import sys; sys.stdin.read()\nprogress.begin(1)")
    script = f"{waits}\nopen({str(tmp_path / 'written')!r}, 'w').close()"
    code, written = terminal.run([sys.executable, "-c", script], 80, closes_after=b"compiling", env=environment())
    assert code == 0 and "accuracy" not in written and (tmp_path / "written").exists()
