# SPDX-License-Identifier: MIT
"""Virtio ports, and what is done to a machine from outside: by name, by signal, through the guest agent."""
import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import time

from machine import Fail, Skip, unix_connect
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
        if sorted(names) != ["org.example.one", "org.example.two", "org.qemu.guest_agent.0"]:
            raise Fail("the guest sees the ports %r" % names)
        for n in ("org.example.one", "org.example.two"):
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


TERMINAL = ("import os, sys; os.setsid(); fd = os.open(sys.argv[1], os.O_RDWR); os.dup2(fd, 0); os.dup2(fd, 1); "
            "os.execv(sys.argv[2], sys.argv[2:])")


def set_size(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


@case("control:size")
def size(b):
    """The guest's hvc0 is as large as the terminal, and follows it."""
    master, slave = pty.openpty()
    set_size(master, 31, 97)
    path = os.path.join(b.tmp, "serial")
    with b.boot("--serial", "unix:" + path, "--console", "stdio", flavour="cloud-amd64", stdio=False,
                prefix=[sys.executable, "-c", TERMINAL, os.ttyname(slave)]) as m:
        s = unix_connect(path, 20 * b.scale)
        m.use(s.fileno())
        m.shell()
        for rows, columns in ((31, 97), (50, 132)):
            set_size(master, rows, columns)
            want = "%d %d" % (rows, columns)
            end = time.monotonic() + 20 * b.scale
            while m.ok("stty size </dev/hvc0").strip() != want:
                if time.monotonic() > end:
                    raise Fail("hvc0 has the size %s" % m.ok("stty size </dev/hvc0"))
                time.sleep(0.2)
        m.poweroff()
    os.close(master)
    os.close(slave)


# ---- machines by name ----


def gazda(b, *args, status=0, seconds=60, data=None):
    """Runs a subcommand: its standard output, as bytes."""
    p = subprocess.run([b.gazda] + list(args), input=data, stdin=None if data is not None else subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=seconds * b.scale, check=False)
    if p.returncode != status:
        raise Fail("gazda %s: status %d: %s" % (" ".join(args), p.returncode, p.stderr.decode(errors="replace")[-400:]))
    return p.stdout if status == 0 else p.stderr


def names(b):
    return gazda(b, "ps", "-q").decode().split()


def detached(b, name, *args, flavour="cloud-amd64"):
    kernel, initrd, _ = b.kernel(flavour, "bz")
    out = gazda(b, "run", "--detach", "--name", name, "--kernel", kernel, "--initrd", initrd, *args).decode()
    if out != name + "\n":
        raise Fail("gazda run --detach printed %r" % out)


class Console:
    """gazda console NAME on a terminal of its own."""

    def __init__(self, b, name):
        self.master, slave = pty.openpty()
        self.proc = subprocess.Popen([b.gazda, "console", name], stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        self.text, self.scale = "", b.scale

    def expect(self, want, seconds=60):
        end = time.monotonic() + seconds * self.scale
        while want not in self.text:
            if time.monotonic() > end:
                raise Fail("no %r on the console, which ends: %r" % (want, self.text[-300:]))
            if select.select([self.master], [], [], 0.5)[0]:
                try:
                    self.text += os.read(self.master, 4096).decode(errors="replace")
                except OSError:
                    raise Fail("the console ended before %r: %r" % (want, self.text[-300:])) from None
        self.text = self.text.split(want, 1)[1]

    def send(self, keys):
        os.write(self.master, keys.encode())

    def close(self):
        self.proc.kill()
        self.proc.wait()
        os.close(self.master)


def kill_all(b):
    for n in names(b):
        gazda(b, "kill", n)


@case("control:detach")
def detach(b):
    """Two machines in the background: ps, consoles that come and go, the power button."""
    try:
        detached(b, "one")
        detached(b, "two", "--mem", "256M", "--cpus", "2")
        gazda(b, "run", "--detach", "--name", "two", "--kernel", "/dev/null", status=1)
        text = gazda(b, "run", "--name", "one", "--serial", "null", "--kernel", "/dev/null", status=1)
        if b"running already" not in text:
            raise Fail("a second machine of a name: %r" % text)
        if names(b) != ["one", "two"]:
            raise Fail("ps -q: %r" % names(b))
        two = [m for m in json.loads(gazda(b, "ps", "--json")) if m["name"] == "two"][0]
        if two["state"] != "running" or two["cpus"] != 2 or two["memory_bytes"] != 256 << 20 or two["uptime_s"] > 600:
            raise Fail("ps --json: %r" % two)
        c = Console(b, "one")
        c.expect(":/root# ", 120)
        c.send("echo $((20 + 3))-here\n")
        c.expect("23-here")
        c.send("\x01x")
        c.expect("goes on in the background")
        if c.proc.wait(20 * b.scale) != 0:
            raise Fail("gazda console: status %d" % c.proc.returncode)
        c.close()
        c = Console(b, "one")
        d = Console(b, "one")
        for x in (c, d):
            x.expect("23-here")  # history
        d.send("echo for-$((2 + 2))-all\n")
        for x in (c, d):
            x.expect("for-4-all")
        c.close()
        gazda(b, "stop", "one", seconds=90)
        d.expect("Power down", 20)
        d.expect("ended", 20)
        d.close()
        if names(b) != ["two"]:
            raise Fail("after stop: %r" % names(b))
        gazda(b, "console", "one", status=1)
        gazda(b, "stop", "one", status=1)
        gazda(b, "kill", "two")
        if names(b) or b"two" in gazda(b, "ps"):
            raise Fail("after kill: %r" % names(b))
    finally:
        kill_all(b)


def state_of(b, name):
    return [m for m in json.loads(gazda(b, "ps", "--json")) if m["name"] == name][0]["state"]


@case("control:pause")
def pause(b):
    """A paused guest does not go on; resumed it does. Without an agent nothing can be frozen, and nothing is paused."""
    with b.boot("--name", "still", flavour="cloud-amd64") as m:
        m.shell()
        if b"agent" not in gazda(b, "pause", "--freeze", "still", status=1) or state_of(b, "still") != "running":
            raise Fail("--freeze without an agent")
        gazda(b, "pause", "still")
        gazda(b, "pause", "still")
        for args in (["exec", "-n", "still", "true"], ["cp", "still:/etc/hostname", "-"], ["stop", "still"],
                     ["pause", "--freeze", "still"]):
            if b"is paused" not in gazda(b, *args, status=125 if args[0] == "exec" else 1):
                raise Fail("%s does not say that the machine is paused" % args[0])
        if state_of(b, "still") != "paused":
            raise Fail("it is %s" % state_of(b, "still"))
        m.send("echo $((40 + 2))-alive\n")
        time.sleep(1)
        m.pump(0.1)
        if "42-alive" in m.text:
            raise Fail("a paused guest has answered")
        gazda(b, "resume", "still")
        m.expect("42-alive", 60)
        gazda(b, "resume", "still")
        gazda(b, "resume", "nobody", status=1)
        m.poweroff()


@case("control:start-fails")
def start_fails(b):
    """What is wrong is told by --detach in the foreground, and leaves no machine."""
    text = gazda(b, "run", "--detach", "--kernel", os.path.join(b.tmp, "missing"), status=1)
    if text.count(b"\n") != 1 or b"missing" not in text:
        raise Fail("stderr: %r" % text)
    for bad in (["--serial", "stdio"], ["--name", "a/b"], ["--console", "stdio"]):
        text = gazda(b, "run", "--detach", "--kernel", "/dev/null", *bad, status=1)
        if text.count(b"\n") != 1:
            raise Fail("%r: %r" % (bad, text))
    if names(b):
        raise Fail("there is %r" % names(b))


@case("control:killed")
def killed(b):
    """A machine that was killed from outside is gone, and its name can be used again."""
    try:
        for _ in range(2):
            detached(b, "victim", "--mem", "64M")
            pid = json.loads(gazda(b, "ps", "--json"))[0]["pid"]
            os.kill(pid, signal.SIGKILL)
            end = time.monotonic() + 20
            while os.path.exists("/proc/%d/exe" % pid) and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(0.5 * b.scale)  # its files are closed a bit later
        if names(b):
            raise Fail("a dead machine is listed: %r" % names(b))
        detached(b, "victim", "--mem", "64M")
        # It does not answer: it is listed, and killed all the same.
        pid = json.loads(gazda(b, "ps", "--json"))[0]["pid"]
        os.kill(pid, signal.SIGSTOP)
        end = time.monotonic() + 20
        while time.monotonic() < end:  # all of its threads
            with open("/proc/%d/stat" % pid) as f:
                if f.read().rsplit(")", 1)[1].split()[0] == "T":
                    break
            time.sleep(0.05)
        if json.loads(gazda(b, "ps", "--json", seconds=60))[0]["state"] != "silent":
            raise Fail("a stopped process answers")
        gazda(b, "kill", "victim")
        if names(b):
            raise Fail("after kill: %r" % names(b))
    finally:
        kill_all(b)


@case("control:sigterm")
def sigterm(b):
    """The first SIGTERM is the power button; the guest's own end of it is status 0. Two end a guest that takes its time."""
    with b.boot("--name", "term", flavour="cloud-amd64") as m:
        m.shell()
        m.proc.terminate()
        m.expect("Power down", 60)
        m.ends(0)
    with b.boot(flavour="cloud-amd64") as m:
        m.shell()
        m.ok("printf '#!/bin/sh\nexit 0\n' >/etc/acpi/PWRF/00000080")
        m.proc.terminate()
        end = time.monotonic() + 20 * b.scale
        while "asked to power off" not in m.stderr() and time.monotonic() < end:
            m.pump(0.1)
        m.ok("echo still here")
        m.proc.terminate()
        m.ends(128 + 15)
    with b.boot(flavour="cloud-amd64") as m:
        m.shell()
        m.proc.send_signal(signal.SIGHUP)
        m.ends(128 + 1)


# ---- the guest agent ----

AGENT_PACKAGES = "qemu-guest-agent libc6 libglib2.0-0 libudev1 liburing2 libnuma1 libpcre2-8-0"
AGENT_LIBS = ("libudev.so.1 libnuma.so.1 liburing.so.2 libglib-2.0.so.0 libgmodule-2.0.so.0 libm.so.6 libc.so.6 "
              "libpcre2-8.so.0 ld-linux-x86-64.so.2")


def agent_initrd(b):
    """An initrd with Debian's qemu-ga and the libraries that it needs."""
    debget = os.path.join(b.top, "tools", "debget")
    r = subprocess.run([debget] + [p + ":amd64" for p in AGENT_PACKAGES.split()], stdout=subprocess.PIPE,
                       stderr=subprocess.DEVNULL, text=True, check=False)
    if r.returncode != 0:
        raise Skip("the packages of qemu-guest-agent cannot be had (no network?)")
    tree, root = os.path.join(b.tmp, "packages"), os.path.join(b.tmp, "agent")
    libs = os.path.join(root, "lib", "x86_64-linux-gnu")
    for d in (tree, libs, os.path.join(root, "lib64"), os.path.join(root, "sbin")):
        os.makedirs(d)
    for deb in r.stdout.split():
        subprocess.run(["dpkg-deb", "-x", deb, tree], check=True)
    shutil.copy(os.path.join(tree, "usr", "sbin", "qemu-ga"), os.path.join(root, "sbin"))
    for lib in AGENT_LIBS.split():
        for base, _, files in os.walk(tree):
            if lib in files:
                shutil.copy(os.path.join(base, lib), libs)
                break
        else:
            raise Fail("no %s in %s" % (lib, AGENT_PACKAGES))
    os.chmod(os.path.join(libs, "ld-linux-x86-64.so.2"), 0o755)
    os.symlink("/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", os.path.join(root, "lib64", "ld-linux-x86-64.so.2"))
    out = os.path.join(b.tmp, "agent.cpio")
    subprocess.run([os.path.join(b.top, "tools", "mkcpio"), out, root], check=True)
    return out


@case("control:agent")
def agent(b):
    """exec and cp through the stock qemu-guest-agent; an agent that is not there, is killed, comes back."""
    initrd = agent_initrd(b)
    with b.boot("--initrd", initrd, "--name", "agent", flavour="cloud-amd64") as m:
        m.shell()
        gazda(b, "exec", "-n", "nobody", "true", status=125)
        text = gazda(b, "exec", "-n", "agent", "true", status=125)
        if b"no guest agent" not in text:
            raise Fail("without an agent: %r" % text)
        m.ok("mkdir -p /var/run; (sleep 1; exec qemu-ga -p /dev/$(grep -l org.qemu.guest_agent.0 "
             "/sys/class/virtio-ports/*/name | cut -d/ -f5) >/tmp/ga.log 2>&1) & true")
        out = gazda(b, "exec", "-n", "--wait", "60", "agent", "--", "sh", "-c", "echo $((6 * 7)); echo oops >&2; exit 5",
                    status=5, seconds=120)
        if out != b"oops\n":
            raise Fail("standard error of exec: %r" % out)
        if gazda(b, "exec", "agent", "cat", data=b"in\x00\xff\n") != b"in\x00\xff\n":
            raise Fail("standard input of exec does not come back")
        gazda(b, "exec", "-n", "agent", "sh", "-c", "kill -9 $$", status=128 + 9)
        if b"no-such-program" not in gazda(b, "exec", "-n", "agent", "no-such-program", status=125):
            raise Fail("a program that is not there")
        data = os.urandom(700001)
        path = b.file("data", data)
        os.chmod(path, 0o755)
        gazda(b, "cp", path, "agent:/tmp/")
        if gazda(b, "exec", "-n", "agent", "stat", "-c", "%s %a", "/tmp/data") != b"700001 755\n":
            raise Fail("cp into the guest")
        back = os.path.join(b.tmp, "back")
        gazda(b, "cp", "agent:/tmp/data", back)
        with open(back, "rb") as f:
            if f.read() != data:
                raise Fail("what came back differs from what was copied in")
        if gazda(b, "cp", "agent:/etc/passwd", "-")[:4] != b"root":
            raise Fail("cp to standard output")
        gazda(b, "cp", "agent:/nothing", back, status=1)
        gazda(b, "cp", os.path.join(b.tmp, "nothing"), "agent:/tmp/x", status=1)
        with open(back, "rb") as f:
            if f.read() != data:
                raise Fail("a copy that failed changed the file")
        # It is killed in the middle of something, and comes back.
        p = subprocess.Popen([b.gazda, "exec", "-n", "agent", "sleep", "30"], stderr=subprocess.PIPE)
        m.ok("sleep 0.5; killall -9 qemu-ga")
        err = p.communicate(timeout=60 * b.scale)[1]
        if p.returncode != 125 or b"agent" not in err:
            raise Fail("a killed agent: status %d, %r" % (p.returncode, err))
        m.ok("(exec qemu-ga -p /dev/vport*p1 >/tmp/ga.log 2>&1) & true")
        gazda(b, "exec", "-n", "--wait", "60", "agent", "true", seconds=120)
        m.poweroff()


@case("control:no-agent")
def no_agent(b):
    with b.boot("--no-agent", "--name", "plain", flavour="cloud-amd64") as m:
        m.shell()
        m.ok("test ! -e /sys/class/virtio-ports || test -z \"$(ls /sys/class/virtio-ports)\"")
        if b"--no-agent" not in gazda(b, "exec", "-n", "plain", "true", status=125):
            raise Fail("--no-agent is not told")
        m.poweroff()
