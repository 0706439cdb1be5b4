# SPDX-License-Identifier: MIT
"""virtio network devices, under a stock kernel's driver."""
import contextlib
import hashlib
import os
import random
import socket
import threading

from machine import Fail, Skip
from registry import case

MIB = 1 << 20


def free_port(kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET, kind) as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def data(size):
    return random.Random(size).randbytes(size)


def online(m):
    """Waits for the shell, and for an address by DHCP."""
    m.shell()
    m.ok("for i in $(seq 100); do ip route | grep -q ^default && break; sleep 0.1; done; ip route | grep -q ^default", 60)


class Server:
    """Listens on the host's loopback; each connection is given to fn, and what that returns is kept."""

    def __init__(self, fn, seconds):
        self.fn, self.results, self.seconds = fn, [], seconds
        self.sock = socket.create_server(("127.0.0.1", 0))
        self.port = self.sock.getsockname()[1]
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                s, _ = self.sock.accept()
                s.settimeout(self.seconds)
                with s, contextlib.suppress(OSError):
                    self.results.append(self.fn(s))

    def close(self):
        self.sock.close()


def drain(s):
    h, n = hashlib.sha256(), 0
    while True:
        part = s.recv(1 << 16)
        if not part:
            return n, h.hexdigest()
        h.update(part)
        n += len(part)


@case("net:user")
def user(b):
    """DHCP, ping, TCP out to the host's loopback and in through a forwarded port, both ways with checksums; DNS."""
    size = 4 * MIB
    blob = data(size)
    want = hashlib.sha256(blob).hexdigest()
    port, port2 = free_port(), free_port()
    sink, source = Server(drain, 60 * b.scale), Server(lambda s: s.sendall(blob), 60 * b.scale)
    fwd = "user,hostfwd=tcp:127.0.0.1:%d-:8080,hostfwd=tcp::%d-10.0.2.15:8081" % (port, port2)
    with b.boot("--net", fwd, flavour="cloud-amd64") as m:
        online(m)
        if "10.0.2.15/24" not in m.ok("ip addr show eth0") or "10.0.2.3" not in m.ok("cat /etc/resolv.conf"):
            raise Fail("DHCP gave something else")
        m.ok("ping -c 2 -W 5 10.0.2.2")
        got = m.ok("nc 10.0.2.2 %d </dev/null >/tmp/blob; sha256sum /tmp/blob" % source.port, 120)
        if want not in got:
            raise Fail("what the guest received differs: %s" % got)
        m.ok("nc 10.0.2.2 %d </tmp/blob >/dev/null" % sink.port, 120)
        m.ok("for i in $(seq 100); do [ -e /proc/net/tcp ] && break; done; sleep 0.2")
        if sink.results != [(size, want)]:
            raise Fail("what the host received differs: %s" % sink.results)
        # In, from the host.
        m.ok("mkdir -p /tmp/www; cp /tmp/blob /tmp/www; busybox httpd -p 8080 -h /tmp/www; (nc -l -p 8081 | sha256sum >/tmp/in) &"
             "sleep 0.5")
        with socket.create_connection(("127.0.0.1", port), 10) as s:
            s.settimeout(60 * b.scale)
            s.sendall(b"GET /blob HTTP/1.0\r\n\r\n")
            reply = b""
            while True:
                part = s.recv(1 << 16)
                if not part:
                    break
                reply += part
        if reply.split(b"\r\n\r\n", 1)[1] != blob:
            raise Fail("the file that came through the forwarded port differs")
        with socket.create_connection(("127.0.0.1", port2), 10) as s:
            s.settimeout(60 * b.scale)
            s.sendall(blob)
        if want not in m.ok("for i in $(seq 100); do [ -s /tmp/in ] && break; sleep 0.1; done; cat /tmp/in", 60):
            raise Fail("what came in through the forwarded port differs")
        m.poweroff()
    sink.close()
    source.close()


@case("net:dns")
def dns(b):
    """The name server of the guest's network is the host's."""
    try:
        want = socket.gethostbyname("deb.debian.org")
    except OSError as e:
        raise Skip("the host resolves no names: %s" % e) from e
    with b.boot("--net", "user", flavour="cloud-amd64") as m:
        online(m)
        out = m.ok("nslookup -type=a deb.debian.org", 60)
        if "10.0.2.3" not in out or "Address" not in out.partition("Name:")[2]: # which one may differ each time
            raise Fail("the host says %s, the guest: %s" % (want, out))
        m.poweroff()


@case("net:messages")
def messages(b):
    """What cannot be done is said."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        busy = s.getsockname()[1]
        for arg, words in (
                ("user,hostfwd=tcp::%d-:22" % busy, "in use"),
                ("user,hostfwd=tcp:22-22", "tcp:127.0.0.1:2222-:22"),
                ("user,hostfwd=tcp:203.0.113.77:2222-:22", "no address 203.0.113.77"),
                ("user,net=10.0.2.0/33", "10.0.2.0/24"),
                ("user,net=10.9.0.0/24,dns=10.0.2.3", "outside"),
                ("user,restrict=maybe", "neither on nor off"),
                ("user,colour=blue", 'unknown option "colour"'),
                ("user,mac=03:00:00:00:00:01", "even"),
                ("user,mtu=9", "from 68"),
                ("user,rx-bps=fast", "SIZE[:BURST[:MS]]"),
                ("user,dump=/nonexistent/f", "/nonexistent/f"),
                ("wormhole", "user, tap, link or none")):
            with b.boot("--net", arg, flavour="cloud-amd64") as m:
                m.ends(1, 30)
                if words not in m.stderr() or m.stderr().count("\n") != 1:
                    raise Fail("--net %s: no clear answer: %r" % (arg, m.stderr()))
