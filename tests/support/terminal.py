"""A terminal of so many columns, with a command in it: what stands there in the end."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
from collections.abc import Mapping, Sequence

_CONTROL = re.compile(r"\x1b\[(\??\d*)([A-Za-z])|(\r|\n)|([^\x1b\r\n]+)")


def run_in_terminal(
    words: Sequence[str], environment: Mapping[str, str], columns: int
) -> tuple[int, str]:
    """The exit code of a command in a terminal of its own, and all that it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    variables = {name: text for name, text in environment.items() if name != "COLUMNS"}
    with subprocess.Popen(
        words,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=variables | {"TERM": "xterm-256color"},
        start_new_session=True,
    ) as process:
        os.close(theirs)
        written = bytearray()
        while piece := _read(ours):
            written += piece
    os.close(ours)
    return process.returncode, written.decode()


def _read(end: int) -> bytes:
    try:
        return os.read(end, 65536)
    except OSError:  # Linux's way to say that the other end is closed
        return b""


def screen(written: str) -> list[str]:
    """The lines that stand on a terminal, however wide, after this was written to it."""
    lines, row, column = [""], 0, 0
    for number, command, control, text in _CONTROL.findall(written):
        if text:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + text + line[column + len(text) :]
            column += len(text)
        elif control == "\r":
            column = 0
        elif control == "\n":
            row += 1
            if row == len(lines):
                lines.append("")
        elif command == "A":
            row -= int(number or 1)
        elif command == "K":
            lines[row] = "" if number == "2" else lines[row][:column]
        else:
            assert command in "mhl", (number, command)  # colours, and whether the cursor is shown
    return [line.rstrip() for line in lines]
