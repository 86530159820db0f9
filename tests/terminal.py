"""A terminal for tests: run a command in it, and see what it wrote."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios

ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def run(command, columns, *, closes_after=None, **options):
    """Return the exit code and what the command wrote.

    The terminal may close once it has shown some text; the command's input ends after that.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=theirs, stderr=subprocess.STDOUT, **options)
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # EIO: the command has ended
        while (part := os.read(ours, 65536)) and not (closes_after and closes_after in written):
            written += part
    os.close(ours)
    process.stdin.close()
    return process.wait(120), written.decode(errors="replace")


def lines(written):
    """Return the lines without escape codes, also those that were overwritten later."""
    return [line.rstrip() for line in re.split(r"[\r\n]+", ESCAPE.sub("", written))]
