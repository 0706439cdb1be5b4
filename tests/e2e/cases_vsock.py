# SPDX-License-Identifier: MIT
"""virtio-vsock: programs of the host and of a stock guest reach each other."""
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import zlib

from machine import Fail, Skip, unix_connect
from registry import add, case

MIB = 1 << 20


def program(b):
    """An initrd with the guest's end (guest/vsock.c) in it."""
    root = os.path.join(b.tmp, "root")
    os.makedirs(os.path.join(root, "bin"))
    src = os.path.join(b.top, "tests", "e2e", "guest", "vsock.c")
    subprocess.run(["gcc", "-static", "-O2", "-Wall", "-Wextra", "-Werror", "-o", os.path.join(root, "bin", "vsock"), src],
                   check=True)
    out = os.path.join(b.tmp, "vsock.cpio")
    subprocess.run([os.path.join(b.top, "tools", "mkcpio"), out, root], check=True)
    return out


class Host:
    """The unix socket of a machine."""

    def __init__(self, b, cid=3):
        self.path, self.seconds = os.path.join(b.tmp, "v.sock"), 60 * b.scale
        self.args = ["--initrd", program(b), "--vsock", "%d:%s" % (cid, self.path)]

    def dial(self, port):
        """A connection to the guest; None if it refuses."""
        s = unix_connect(self.path, 30)
        s.settimeout(self.seconds)
        s.sendall(b"CONNECT %d\n" % port)
        line = b""
        while not line.endswith(b"\n"):
            c = s.recv(1)
            if not c:
                s.close()
                return None
            line += c
        if not re.fullmatch(rb"OK \d+\n", line):
            raise Fail("the greeting's answer is %r" % line)
        return s

    def listen(self, port, serve):
        """Serves each connection that the guest makes, in a thread of its own."""
        sock = socket.socket(socket.AF_UNIX)
        sock.bind("%s_%d" % (self.path, port))
        sock.listen(128)

        def one(s):
            with s:
                try:
                    serve(s)
                except OSError:
                    pass

        def run():
            while True:
                s = sock.accept()[0]
                threading.Thread(target=one, args=(s,), daemon=True).start()

        threading.Thread(target=run, daemon=True).start()


def drain(s):
    n = crc = 0
    while True:
        data = s.recv(1 << 17)
        if not data:
            return "%d %08x" % (n, crc)
        n, crc = n + len(data), zlib.crc32(data, crc)


def serve(m, what, port, *more):
    m.ok("vsock %s %d %s >/tmp/serve.%d & while ! grep -q serving /tmp/serve.%d; do sleep 0.1; done" % (
        what, port, " ".join(map(str, more)), port, port))


def echo(s):
    while True:
        data = s.recv(65536)
        if not data:
            return
        s.sendall(data)


@case("vsock:socat")
def both_ways(b):
    """The issue's bar: socat from the host and back."""
    if not shutil.which("socat"):
        raise Skip("socat is not installed")
    h = Host(b)
    with b.boot(*h.args) as m:
        m.shell()
        serve(m, "echo", 52)
        out = subprocess.run(["socat", "-t", str(h.seconds), "-", "UNIX-CONNECT:" + h.path], check=True,
                             input=b"CONNECT 52\nfrom the host\n", stdout=subprocess.PIPE, timeout=h.seconds).stdout
        if not re.fullmatch(rb"OK \d+\nfrom the host\n", out):
            raise Fail("the guest's echo: %r" % out)
        listener = subprocess.Popen(["socat", "UNIX-LISTEN:%s_70" % h.path, "EXEC:cat"])
        try:
            unix_wait("%s_70" % h.path, 30)
            out = m.ok("vsock send 70 20")
        finally:
            listener.kill()
            listener.wait()
        sent = re.search(r"sent (\S+ \S+)", out)
        if not sent or not sent.group(1).startswith("20 ") or "back" not in out:
            raise Fail("the guest to socat: %r" % out)
        if h.dial(99):
            raise Fail("a port that nobody listens at connects")
        for cid, port in ((2, 71), (5, 70)):
            if "reset" not in m.run("vsock try %d %d" % (cid, port))[1]:
                raise Fail("CID %d port %d connects" % (cid, port))
        m.poweroff()
    if os.path.exists(h.path):
        raise Fail("the socket file is left behind")


def unix_wait(path, seconds):
    end = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > end:
            raise Fail("no %s" % path)
        time.sleep(0.05)


def rate(what, n, since):
    print("# %s: %.0f MB/s" % (what, n / 1e6 / max(time.monotonic() - since, 1e-6)), flush=True)


def bulk(b, size, *options):
    """Megabytes both ways, also at once, with checksums; the guest judges what it gets, the host what that sends."""
    h = Host(b)
    h.listen(70, lambda s: s.sendall((drain(s) + "\n").encode()))
    with b.boot(*h.args, *options) as m:
        m.shell()
        serve(m, "sum", 53)
        serve(m, "source", 54, size)
        since = time.monotonic()
        out = m.ok("vsock send 70 %d" % size, 300)
        rate("guest to host", size, since)
        got = re.search(r"sent (\S+ \S+)\s+back (\S+ \S+)", out)
        if not got or got.group(1) != got.group(2):
            raise Fail("guest to host: %r" % out)
        want, block = got.group(1), os.urandom(MIB)

        def upload():
            s, crc, t = h.dial(53), 0, time.monotonic()
            for _ in range(size // MIB):
                s.sendall(block)
                crc = zlib.crc32(block, crc)
            s.shutdown(socket.SHUT_WR)
            got = s.makefile().readline().strip()
            rate("host to guest", size, t)
            if got != "%d %08x" % (size // MIB * MIB, crc):
                raise Fail("host to guest: %s arrived, not %d %08x" % (got, size, crc))

        upload()
        results = []
        other = threading.Thread(target=lambda: results.append(drain(h.dial(54))))
        other.start()
        upload()
        other.join()
        if results != [want]:
            raise Fail("guest to host, at the same time: %s, not %s" % (results, want))
        m.poweroff()


add("vsock:bulk", bulk, 16 * MIB)
add("vsock:bulk-100M", bulk, 100 * MIB, "--cpus", "2", nightly=True)


@case("vsock:many")
def many(b):
    """100 connections at once in each direction."""
    h = Host(b)
    h.listen(70, echo)
    with b.boot(*h.args, "--cpus", "2") as m:
        m.shell()
        serve(m, "echo", 52)
        if "100 connections" not in m.ok("vsock many 70 100", 120):
            raise Fail("the guest's connections")
        socks = [h.dial(52) for _ in range(100)]
        for i, s in enumerate(socks):
            s.sendall(b"connection %d\n" % i * 50)
        for i, s in enumerate(socks):
            s.shutdown(socket.SHUT_WR)
            if drain(s) != "%d %08x" % (len(b"connection %d\n" % i * 50), zlib.crc32(b"connection %d\n" % i * 50)):
                raise Fail("connection %d" % i)
            s.close()
        m.poweroff()


@case("vsock:ends")
def ends(b):
    """Halves that end, peers that are killed, readers that do not read, a reboot."""
    h = Host(b)
    h.listen(70, echo)
    with b.boot(*h.args) as m:
        m.shell()
        serve(m, "sum", 53)
        serve(m, "hold", 55)
        s = h.dial(53)  # half close: the answer comes behind the end
        s.sendall(b"abc")
        s.shutdown(socket.SHUT_WR)
        if drain(s) != "%d %08x" % (11, zlib.crc32(b"3 352441c2\n")):
            raise Fail("no answer after the half close")
        s = h.dial(55)  # nobody reads: the sender must stop, and the machine go on
        s.setblocking(False)
        sent, quiet = 0, 0
        while quiet < 10:
            try:
                sent, quiet = sent + s.send(bytes(65536)), 0
            except BlockingIOError:
                quiet += 1
                time.sleep(0.1)
        if sent > 4 * MIB:
            raise Fail("%d bytes went to a reader that does not read" % sent)
        m.ok("killall vsock; sleep 0.2")  # the guest's ends are killed
        s.settimeout(h.seconds)
        try:
            if drain(s)[0] != "0":
                raise Fail("bytes from nowhere")
        except ConnectionResetError:
            pass
        if h.dial(53):
            raise Fail("a server that was killed still answers")
        # The host's end is killed: the guest's write fails, its read ends.
        serve(m, "source", 54, 1 << 40)
        h.dial(54).close()
        m.ok("sleep 0.5; n=$(ps | grep -c '[v]sock source'); [ $n = 1 ]")
        serve(m, "echo", 52)
        s = h.dial(52)
        s.sendall(b"x")
        if s.recv(1) != b"x":
            raise Fail("no echo")
        m.send("reboot -f\n")  # connections end with the guest, the listener stays
        if drain(s)[0] != "0":
            raise Fail("bytes from nowhere")
        m.expect("Linux version", 120)
        m.shell()
        serve(m, "echo", 52)
        s = h.dial(52)
        s.sendall(b"y")
        if s.recv(1) != b"y":
            raise Fail("no echo after a reboot")
        m.poweroff()
