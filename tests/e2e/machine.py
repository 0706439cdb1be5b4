# SPDX-License-Identifier: MIT
"""A gazda under test: started, talked to over its serial console, waited for."""
import os
import re
import select
import signal
import socket
import subprocess
import time


class Fail(Exception):
    """The test failed; the text says how."""


class Skip(Exception):
    """The test cannot run here; the text says why."""


class Machine:
    """One process. The console is a pair of pipes unless the caller gives file descriptors of another channel."""

    def __init__(self, argv, log, scale=1.0, stdio=True, env=None, prefix=()):
        self.scale, self.text, self.at, self.marks = scale, "", 0, 0
        self.log = open(log, "ab")
        self.log.write(("\n### %s\n" % " ".join(argv)).encode())
        self.log.flush()
        self.err = open(log + ".err", "wb+")
        self.proc = subprocess.Popen(list(prefix) + argv, stdin=subprocess.PIPE if stdio else subprocess.DEVNULL,
                                     stdout=subprocess.PIPE, stderr=self.err, env=env)
        self.rx = self.proc.stdout.fileno()
        self.tx = self.proc.stdin.fileno() if stdio else None
        os.set_blocking(self.rx, False)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        if self.proc.poll() is None:
            self.proc.kill()
            self.proc.wait()
        self.log.close()
        self.err.close()

    def use(self, fd):
        """Talks to the guest through fd instead of stdio (a pty, a socket)."""
        os.set_blocking(fd, False)
        self.rx = self.tx = fd

    def stderr(self):
        self.err.seek(0)
        return self.err.read().decode(errors="replace")

    def pump(self, seconds):
        """Reads what comes within the time; False at the end of the stream."""
        if not select.select([self.rx], [], [], seconds)[0]:
            return True
        try:
            data = os.read(self.rx, 65536)
        except BlockingIOError:
            return True
        except OSError:
            data = b""
        self.log.write(data)
        self.log.flush()
        self.text += data.decode(errors="replace")
        return bool(data)

    def expect(self, pattern, seconds):
        """Waits until pattern shows up after what was matched last; returns the match."""
        rx, end = re.compile(pattern, re.S), time.monotonic() + seconds * self.scale
        while True:
            m = rx.search(self.text, self.at)
            if m:
                self.at = m.end()
                return m
            left = end - time.monotonic()
            if left <= 0:
                raise Fail("no /%s/ within %d s; the console ends: %s" % (pattern, seconds * self.scale, self.ending()))
            if not self.pump(min(left, 1.0)):
                self.wait(5)
                raise Fail("gazda ended with status %s before /%s/; the console ends: %s; stderr: %s" % (
                    self.proc.returncode, pattern, self.ending(), self.stderr()[-500:]))

    def ending(self):
        return repr(self.text[-400:])

    def send(self, data):
        data = data.encode()
        end = time.monotonic() + 60 * self.scale
        while data:
            if time.monotonic() > end:
                raise Fail("gazda takes no input on its console")
            if select.select([], [self.tx], [], 1)[1]:
                # Small pieces: the guest's own receive buffer is not to be the thing that is tested here.
                n = os.write(self.tx, data[:64])
                data = data[n:]
            self.pump(0.001)

    def shell(self, seconds=300):
        """Waits for the prompt of the appliance's shell."""
        self.expect(r"gazda:\S*# ", seconds)

    def run(self, command, seconds=60):
        """Runs a command in the guest's shell: (status, output)."""
        self.marks += 1
        n = self.marks
        # The quotes keep the echo of what is typed from matching.
        self.send("echo =''=b%d; %s; echo =''=e%d=$?=\n" % (n, command, n))
        m = self.expect(r"==b%d\r*\n(.*?)==e%d=(\d+)=" % (n, n), seconds)
        return int(m.group(2)), m.group(1).replace("\r", "")

    def ok(self, command, seconds=60):
        status, out = self.run(command, seconds)
        if status != 0:
            raise Fail("in the guest: %s: status %d: %s" % (command, status, out[-400:]))
        return out

    def wait(self, seconds):
        """Drains the console until the process has ended; returns its exit status (negative: a signal)."""
        end = time.monotonic() + seconds * self.scale
        open_ = True
        while time.monotonic() < end:
            if open_:
                open_ = self.pump(0.2)
            try:
                status = self.proc.wait(0.05 if open_ else 0.5)
                while open_ and select.select([self.rx], [], [], 0)[0]:
                    open_ = self.pump(0)
                return status
            except subprocess.TimeoutExpired:
                pass
        raise Fail("gazda still runs after %d s; the console ends: %s" % (seconds * self.scale, self.ending()))

    def poweroff(self, seconds=60):
        self.send("poweroff\n")
        self.ends(0, seconds)

    def ends(self, status, seconds=60):
        got = self.wait(seconds)
        if got != status:
            what = "status %d" % got if got >= 0 else signal.Signals(-got).name
            raise Fail("gazda ended with %s, not status %d; stderr: %s; the console ends: %s" % (
                what, status, self.stderr()[-500:], self.ending()))

    def cpu_seconds(self):
        """User and system time of the process so far."""
        with open("/proc/%d/stat" % self.proc.pid) as f:
            fields = f.read().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def unix_connect(path, seconds):
    end = time.monotonic() + seconds
    while True:
        s = socket.socket(socket.AF_UNIX)
        try:
            s.connect(path)
            return s
        except OSError as e:
            s.close()
            if time.monotonic() > end:
                raise Fail("cannot connect to %s: %s" % (path, e)) from e
            time.sleep(0.1)
