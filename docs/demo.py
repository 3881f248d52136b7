#!/usr/bin/env python3
"""Records docs/demo.svg: the commands below, typed into a shell on a terminal of its own; the output is what they print.

    docs/demo.py [containerfs] [docs/demo.svg]

The picture plays once, with the pauses of the recording; where nothing moves it shows the last screen.
"""

import os
import pty
import re
import select
import shutil
import struct
import sys
import termios
import time
from fcntl import ioctl
from xml.sax.saxutils import escape

COMMANDS = [
    "containerfs mount --demo ~/containers",
    "cd ~/containers && ls",
    "ls -l quarterly-report",
    "grep -r 'Q4,EMEA' .",
    "echo 'Reviewed by a human.' >> quarterly-report/report.md",
    "cp /etc/hostname auto/input.txt && containerfs path auto/input.txt",
    "containerfs status ~/containers",
    "cd && containerfs unmount ~/containers",
]

COLUMNS, ROWS = 92, 60
READY = b"\x1b]133;A\x07"  # The shell says so before each prompt.
TYPING, READING = 0.04, 0.9  # Seconds: a key, and a look at what was printed.
PALETTE = ["#45475a", "#f38ba8", "#a6e3a1", "#f9e2af", "#89b4fa", "#cba6f7", "#94e2d5", "#bac2de"]
INK, PAPER, CHAR, LINE, MARGIN = "#cdd6f4", "#1e1e2e", 8.4, 19, 18
RC = r"""
PS1='\[\e]133;A\a\e[1;32m\]$\[\e[0m\] '
alias ls='ls --color=auto' grep='grep --color=auto'
unset HISTFILE; bind 'set enable-bracketed-paste off'
"""


class Screen:
    """What the shell and these commands need of a terminal: lines, colours, and erasing to the end of a line."""

    TOKEN = re.compile(r"\x1b\][^\x07]*\x07|\x1b\[([?\d;]*)([A-Za-z])|[\x00-\x1f]|[^\x00-\x1f]")

    def __init__(self):
        self.rows, self.x, self.style, self.since = [[]], 0, (None, False), {}

    def feed(self, text, now):
        for token in self.TOKEN.finditer(text):
            parameters, final = token.group(1), token.group(2)
            if final == "m":
                self.colour([int(part or 0) for part in parameters.split(";")])
            elif final == "K":
                del self.rows[-1][self.x :]
            elif token.group() == "\n":
                self.rows.append([])
            elif token.group() == "\r":
                self.x = 0
            elif token.group() == "\b":
                self.x -= 1
            elif token.group() >= " " and not final:
                self.put(token.group(), now)

    def put(self, character, now):
        if self.x == COLUMNS:
            self.rows.append([])
            self.x = 0
        row = self.rows[-1]
        row.extend([(" ", (None, False))] * (self.x + 1 - len(row)))
        row[self.x] = (character, self.style)
        self.x += 1
        self.since.setdefault(len(self.rows) - 1, now)

    def colour(self, codes):
        ink, bold = self.style
        for code in codes:
            if code == 0:
                ink, bold = None, False
            elif code in (1, 22):
                bold = code == 1
            elif 30 <= code <= 37:
                ink = code - 30
            elif code == 39:
                ink = None
        self.style = (ink, bold)


def record(binary):
    home = "/tmp/demo"
    os.mkdir(home, 0o700)
    try:
        with open(f"{home}/.demorc", "w") as rc:
            rc.write(RC)
        shell, terminal = pty.fork()
        if shell == 0:
            path = os.path.dirname(os.path.realpath(binary)) + ":" + os.environ["PATH"]
            clean = {"HOME": home, "PATH": path, "TERM": "xterm-256color", "LC_ALL": "C.UTF-8"}
            os.chdir(home)
            os.execve("/bin/bash", ["bash", "--noprofile", "--rcfile", f"{home}/.demorc", "-i"], clean)
        ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        screen, begun = Screen(), time.monotonic()

        def read_until(done):
            seen = b""
            while not done(seen):
                if not select.select([terminal], [], [], 30)[0]:
                    sys.exit(f"nothing happens after {seen!r}")
                seen += os.read(terminal, 65536)
            screen.feed(seen.decode(), time.monotonic() - begun)

        prompted = lambda seen: READY in seen and seen.endswith(b"$\x1b[0m ")
        read_until(prompted)
        for command in COMMANDS:
            time.sleep(READING)
            for key in command:
                time.sleep(TYPING)
                os.write(terminal, key.encode())
                read_until(lambda seen: len(seen) > 0)
            os.write(terminal, b"\r")
            read_until(prompted)
        os.write(terminal, b"exit\r")
        os.waitpid(shell, 0)
        # The prompt that waits for nothing.
        return screen.rows[:-1], screen.since
    finally:
        shutil.rmtree(home)


def picture(rows, since):
    width, height = int(COLUMNS * CHAR + 2 * MARGIN), len(rows) * LINE + 2 * MARGIN + 22
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        "<title>containerfs at work</title>",
        "<style>text{font:14px ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;white-space:pre}"
        "g{animation:come .01s backwards}@keyframes come{from{visibility:hidden}}"
        "@media(prefers-reduced-motion:reduce){g{animation:none}}</style>",
        f'<rect width="{width}" height="{height}" rx="9" fill="{PAPER}"/>',
    ]
    lines += [f'<circle cx="{MARGIN + 4 + 20 * n}" cy="18" r="6" fill="{PALETTE[c]}"/>' for n, c in enumerate((1, 3, 2))]
    for number, row in enumerate(rows):
        y = MARGIN + 22 + LINE * number + 13
        lines.append(f'<g style="animation-delay:{since.get(number, 0):.2f}s">')
        at = 0
        while at < len(row):
            end = at
            while end < len(row) and row[end][1] == row[at][1]:
                end += 1
            run, (ink, bold) = "".join(character for character, _ in row[at:end]), row[at][1]
            if run.strip():
                lead = len(run) - len(run.lstrip())
                run = run.strip()
                fill = INK if ink is None else PALETTE[ink]
                weight = ' font-weight="bold"' if bold else ""
                lines.append(
                    f'<text x="{MARGIN + CHAR * (at + lead):.1f}" y="{y}" textLength="{CHAR * len(run):.1f}" '
                    f'xml:space="preserve" fill="{fill}"{weight}>{escape(run)}</text>'
                )
            at = end
        lines.append("</g>")
    return "\n".join(lines + ["</svg>", ""])


if __name__ == "__main__":
    found = shutil.which(sys.argv[1] if len(sys.argv) > 1 else "containerfs")
    if not found:
        sys.exit("there is no containerfs to record: name the binary")
    recorded = picture(*record(found))
    with open(sys.argv[2] if len(sys.argv) > 2 else os.path.join(os.path.dirname(__file__), "demo.svg"), "w") as svg:
        svg.write(recorded)
