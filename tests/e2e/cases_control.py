# SPDX-License-Identifier: MIT
"""Virtio ports, and what is done to a machine from outside: by name, by signal, through the guest agent."""
import os

from machine import Fail, unix_connect
from registry import case


def read_until(s, want, seconds):
    data = b""
    s.settimeout(seconds)
    while want not in data:
        try:
            part = s.recv(4096)
        except TimeoutError:
            part = b""
        if not part:
            raise Fail("no %r, but %r" % (want, data[-200:]))
        data += part
    return data


@case("control:ports")
def ports(b):
    """Two named ports and a console of one device: names, both ways, close and reopen, a peer that comes late."""
    one, two = os.path.join(b.tmp, "one"), os.path.join(b.tmp, "two")
    with b.boot("--port", "org.example.one=unix:" + one, "--port", "org.example.two=unix:" + two,
                "--console", "file:" + os.path.join(b.tmp, "hvc"), flavour="cloud-amd64") as m:
        m.shell()
        names = m.ok("cat /sys/class/virtio-ports/*/name").split()
        if sorted(names) != ["org.example.one", "org.example.two"]:
            raise Fail("the guest sees the ports %r" % names)
        for i, n in enumerate(names):
            m.ok("ln -s /dev/$(grep -l %s /sys/class/virtio-ports/*/name | cut -d/ -f5) /tmp/p%d" % (n, n.endswith("two")))
        m.ok("echo to-hvc >/dev/hvc0")
        # Nobody is there yet: the guest's write waits for a peer.
        m.ok("(echo early >/tmp/p0; echo done >/tmp/early) & sleep 0.3; test ! -e /tmp/early")
        s = unix_connect(one, 20)
        read_until(s, b"early\n", 20 * b.scale)
        m.ok("sleep 0.2; cat /tmp/early; echo hello >/tmp/p0")
        read_until(s, b"hello\n", 20 * b.scale)
        # Input waits until somebody opens the port, and more of it after it was closed.
        s.sendall(b"first\n")
        if m.ok("head -n 1 /tmp/p0").strip() != "first":
            raise Fail("input to a port is lost")
        s.sendall(b"second\n")
        if "second" not in m.ok("sleep 0.2; head -n 1 /tmp/p0"):
            raise Fail("input to a port that was closed meanwhile is lost")
        s2 = unix_connect(two, 20)
        m.ok("(dd if=/dev/zero bs=1000 count=1000 2>/dev/null | tr '\\0' z >/tmp/p1) & true")
        s2.settimeout(60 * b.scale)
        got = 0
        while got < 1000000:
            part = s2.recv(65536)
            if not part or part.strip(b"z"):
                raise Fail("what came over the port differs at %d" % got)
            got += len(part)
        m.poweroff()
    with open(os.path.join(b.tmp, "hvc"), encoding="ascii") as f:
        if "to-hvc" not in f.read():
            raise Fail("nothing came out of hvc0")
