# SPDX-License-Identifier: MIT
"""virtio network devices, under a stock kernel's driver."""
import contextlib
import hashlib
import os
import random
import socket
import struct
import subprocess
import threading
import time

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
        m.ok("mkdir -p /tmp/www; cp /tmp/blob /tmp/www; busybox httpd -p 8080 -h /tmp/www; "
             "(nc -l -p 8081 </dev/null | sha256sum >/tmp/in) & "
             "until netstat -ltn | grep -q :8080 && netstat -ltn | grep -q :8081; do sleep 0.1; done")
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
        if want not in m.ok("for i in $(seq 100); do [ -s /tmp/in ] && break; sleep 0.1; done; cat /tmp/in", 120):
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


def static(m, address):
    """Waits for the shell, stops DHCP, and gives eth0 an address."""
    m.shell()
    m.run("killall udhcpc; sleep 0.3")
    m.ok("ip addr flush dev eth0; ip addr add %s/24 dev eth0; ip link set eth0 up" % address)


def frames(path):
    """The frames of a pcap file with nanoseconds: (time, bytes)."""
    with open(path, "rb") as f:
        b = f.read()
    magic, major, minor, _, _, snaplen, link = struct.unpack_from("<IHHIIII", b)
    if (magic, major, minor, link) != (0xa1b23c4d, 2, 4, 1):
        raise Fail("%s has the header of no Ethernet capture: %r" % (path, b[:24]))
    at, out = 24, []
    while at < len(b):
        sec, nsec, n, whole = struct.unpack_from("<IIII", b, at)
        if n != whole or n > snaplen or nsec >= 10 ** 9 or at + 16 + n > len(b):
            raise Fail("frame %d of %s is broken" % (len(out), path))
        out.append((sec + nsec / 1e9, b[at + 16:at + 16 + n]))
        at += 16 + n
    return out


@case("net:dump")
def dump(b):
    """The capture holds what was sent and received, and is whole although gazda is killed."""
    path, port = os.path.join(b.tmp, "f.pcap"), free_port(socket.SOCK_DGRAM)
    begin = time.time() - 1
    with b.boot("--net", "user,dump=%s,hostfwd=udp::%d-:9,mac=02:00:00:00:be:ef,hostname=a-rather-long-name-of-a-guest" % (path, port),
                flavour="cloud-amd64") as m:
        online(m)
        m.ok("ping -c 3 -s 100 -p 5a -W 5 10.0.2.2")
        m.proc.kill()
        m.proc.wait()
    got = frames(path)
    mac = bytes.fromhex("02000000beef")
    echo = [(t, f[34]) for t, f in got if f[12:14] == b"\x08\x00" and f[23] == 1 and b"\x5a" * 90 in f]
    if [k for _, k in echo] != [8, 0] * 3:
        raise Fail("three pings look like this: %s" % echo)
    if any(f[:6] != mac and f[6:12] != mac and not f[0] & 1 for _, f in got):
        raise Fail("there are frames of others")
    if [t for t, _ in got] != sorted(t for t, _ in got) or not begin <= got[0][0] <= got[-1][0] <= time.time():
        raise Fail("the times are wrong")


@case("net:limit")
def limit(b):
    """A limit holds: the time that it takes at least does not depend on how busy the host is."""
    size = 3 * MIB
    sink = Server(drain, 60 * b.scale)
    source = Server(lambda s: s.sendall(data(size)), 60 * b.scale)
    with b.boot("--net", "user,tx-bps=1M,rx-bps=1M", flavour="cloud-amd64") as m:
        online(m)
        for what, port in (("nc 10.0.2.2 %d </tmp/x", sink.port), ("nc 10.0.2.2 %d </dev/null >/tmp/x", source.port)):
            m.ok("head -c %d /dev/zero >/tmp/x" % size)
            begin = time.monotonic()
            m.ok(what % port, 120)
            # A second's worth may have been saved up.
            seconds = time.monotonic() - begin
            if seconds < 1.5:
                raise Fail("%s: %d bytes in %.2f s in spite of a limit of 1 MiB/s" % (what, size, seconds))
        m.poweroff()
    sink.close()
    source.close()


@case("net:link")
def link(b):
    """Two machines on a cable: ping, and TCP with a checksum; the one that listened restarts, then both at once."""
    path, blob = os.path.join(b.tmp, "cable"), data(2 * MIB)
    want = hashlib.sha256(blob).hexdigest()
    file = b.file("blob", blob)

    def start(name, *args):
        return b.boot("--net", "link=" + path, "--name", name, *args, flavour="cloud-amd64")

    def talk(x, y, there):
        x.ok("for i in $(seq 30); do ping -c 1 -W 1 10.1.1.%d && break; done >/dev/null; ping -c 2 -W 5 10.1.1.%d" %
             (there, there), 60)
        y.ok("ping -c 2 -W 5 10.1.1.%d" % (3 - there), 60)

    with start("one", "--disk", file + ",ro") as one:
        static(one, "10.1.1.1")
        with start("two") as two:
            static(two, "10.1.1.2")
            talk(one, two, 2)
            two.ok("(sleep 999 | nc -l -p 99 | sha256sum >/tmp/sum) & sleep 0.3")
            one.ok("nc 10.1.1.2 99 </dev/vda", 60)
            if want not in two.ok("for i in $(seq 50); do [ -s /tmp/sum ] && break; sleep 0.1; done; cat /tmp/sum", 60):
                raise Fail("what crossed the cable differs")
            # The one that listens is killed, and comes back; the other has taken its place.
            one.proc.kill()
            one.proc.wait()
            with start("one") as again:
                static(again, "10.1.1.1")
                talk(again, two, 2)
                # The guest reboots; the cable stays.
                again.send("reboot -f\n")
                again.expect("Linux version", 120)
                static(again, "10.1.1.1")
                talk(two, again, 1)
                again.poweroff()
            two.poweroff()
    if os.path.exists(path):
        raise Fail("the last machine leaves its socket behind")


@case("net:link-many")
def link_many(b):
    """A third machine on the cable; one with the address of another is complained of; a stale socket is in the way."""
    path = os.path.join(b.tmp, "cable")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as s:
        s.bind(path)
    with contextlib.ExitStack() as stack:
        ms = []
        for i in (1, 2, 3):
            ms.append(stack.enter_context(b.boot("--net", "link=%s,mac=02:00:00:00:00:0%d" % (path, min(i, 2)),
                                                 flavour="cloud-amd64")))
            static(ms[-1], "10.1.1.%d" % i)
        ms[0].ok("for i in $(seq 30); do ping -c 1 -W 1 10.1.1.2 && break; done", 60)
        ms[2].run("ping -c 1 -W 1 10.1.1.2")
        end = time.monotonic() + 10 * b.scale
        while "another machine has the same address" not in ms[1].stderr() and time.monotonic() < end:
            ms[2].run("ping -c 1 -W 1 10.1.1.2")
        if "another machine has the same address 02:00:00:00:00:02" not in ms[1].stderr():
            raise Fail("two machines with one address: %r" % ms[1].stderr())
        ms[2].ok("ip link set eth0 down; ip link set eth0 address 02:00:00:00:00:03; ip link set eth0 up")
        ms[2].ok("for i in $(seq 30); do ping -c 1 -W 1 10.1.1.2 && break; done", 60)
        ms[2].ok("for i in $(seq 30); do ping -c 1 -W 1 10.1.1.1 && break; done", 60)


@case("net:tap")
def tap(b):
    """A TAP device, in a network name space of its own: ping both ways, and TCP with large segments."""
    def inside(*argv):
        return subprocess.run(["nsenter", "-t", str(m.proc.pid), "-n"] + list(argv), stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, check=False)

    if subprocess.run(["unshare", "-n", "ip", "tuntap", "add", "dev", "t0", "mode", "tap", "vnet_hdr"],
                      stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=False).returncode != 0:
        raise Skip("this user may not make TAP devices")
    with b.boot("--net", "tap=gz0", flavour="cloud-amd64", prefix=["unshare", "-n"]) as m:
        m.expect("Linux version", 60)
        for argv in (["ip", "addr", "add", "10.1.1.1/24", "dev", "gz0"], ["ip", "link", "set", "gz0", "up"]):
            r = inside(*argv)
            if r.returncode != 0:
                raise Fail("%s: %s" % (argv, r.stdout))
        static(m, "10.1.1.2")
        m.ok("ping -c 2 -W 5 10.1.1.1", 60)
        echo = ("import socket\ns = socket.create_server(('10.1.1.1', 99))\nprint(flush=True)\nc, _ = s.accept()\n"
                "while True:\n    b = c.recv(1 << 16)\n    if not b: break\n    c.sendall(b)\n")
        with subprocess.Popen(["nsenter", "-t", str(m.proc.pid), "-n", "python3", "-c", echo],
                              stdout=subprocess.PIPE) as p:
            p.stdout.readline()
            out = m.ok("dd if=/dev/urandom of=/tmp/a bs=64k count=32 2>/dev/null; nc 10.1.1.1 99 </tmp/a >/tmp/b; "
                       "sha256sum /tmp/a /tmp/b | cut -d ' ' -f 1 | uniq | wc -l", 60)
            p.kill()
        if out.strip() != "1":
            raise Fail("what comes back over the TAP device differs")
        m.poweroff()
