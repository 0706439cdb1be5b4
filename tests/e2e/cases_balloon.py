# SPDX-License-Identifier: MIT
"""virtio-balloon under a stock kernel: the host's memory really comes back, and the guest goes on."""
import hashlib
import json
import os
import subprocess
import time

from machine import Fail
from registry import case

MIB = 1 << 20
WRITE = "tr '\\0' x </dev/zero | dd of=/fill/f bs=64k count=$((%d * 16)) iflag=fullblock 2>/dev/null"


def occupied(m):
    """Host memory behind the guest's RAM."""
    folder = "/proc/%d/fd" % m.proc.pid
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        try:
            if "gazda-ram" in os.readlink(path):
                return os.stat(path).st_blocks * 512
        except OSError:
            continue
    raise Fail("no guest memory in %s" % folder)


def settle(m, below, seconds=60):
    """Waits until no more than that is occupied."""
    end = time.monotonic() + seconds * m.scale
    while occupied(m) > below:
        if time.monotonic() > end:
            raise Fail("%d MiB are still occupied, more than %d" % (occupied(m) // MIB, below // MIB))
        time.sleep(0.1)


def fill(m, mib, check=False):
    """The guest uses memory, and frees it. Returns what was occupied before that: the guest may report what is free at once."""
    m.ok("mkdir -p /fill && mount -t tmpfs -o size=400m none /fill && %s" % WRITE % mib, 120)
    if check and m.ok("md5sum </fill/f", 120).split()[0] != hashlib.md5(b"x" * (mib * MIB)).hexdigest():
        raise Fail("the guest's memory is not what was written")
    full = occupied(m)
    m.ok("rm /fill/f; umount /fill")
    return full


def balloon(b, *args, status=0):
    """gazda balloon: what it prints, as a dictionary; or its error."""
    p = subprocess.run([b.gazda, "balloon"] + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       timeout=60 * b.scale, check=False, text=True)
    if p.returncode != status:
        raise Fail("gazda balloon %s: status %d: %s" % (" ".join(args), p.returncode, p.stderr))
    return p.stderr if status else {k: int(v) for k, v in (line.split() for line in p.stdout.splitlines())}


@case("balloon:inflate")
def inflate(b):
    """200 MB come back when they are asked for; given to the guest again, all of the memory works."""
    stats, name = os.path.join(b.tmp, "stats.json"), "balloon-%d" % os.getpid()
    with b.boot("--name", name, "--balloon", "0,stats=1", "--stats", stats) as m:
        m.shell()
        full = fill(m, 300)
        balloon(b, name, "200M")
        settle(m, full - 190 * MIB)
        end = time.monotonic() + 60 * b.scale
        while balloon(b, name)["actual_bytes"] != 200 * MIB:
            if time.monotonic() > end:
                raise Fail("the guest does not say that it gave all: %r" % balloon(b, name))
            time.sleep(0.1)
        total = int(m.ok("grep MemTotal /proc/meminfo").split()[1])
        if total > 290000:
            raise Fail("the guest still has %d kB" % total)
        fill(m, 150)  # the rest is usable, and the balloon's memory stays with the host
        if occupied(m) > (512 - 200) * MIB:
            raise Fail("%d MiB are occupied again" % (occupied(m) // MIB))
        got = balloon(b, name)
        if got["target_bytes"] != 200 * MIB or got["statistics_updates"] < 2 or not 0 < got["free_memory"] < 290000 << 10:
            raise Fail("the statistics: %r" % got)
        balloon(b, name, "0")
        m.ok("while [ $(grep MemTotal /proc/meminfo | tr -dc 0-9) -lt 460000 ]; do sleep 0.1; done")
        fill(m, 300, check=True)
        if "512 MiB" not in balloon(b, name, "1G", status=1):
            raise Fail("no clear answer to a balloon of 1G")
        m.poweroff()
    with open(stats, encoding="ascii") as f:
        got = json.load(f)["balloon"]
    if got["given_back_bytes"] < 200 * MIB or got["inflated_bytes"] != got["deflated_bytes"]:
        raise Fail("what went in did not come out: %r" % got)


@case("balloon:oom")
def oom(b):
    """With deflate-on-oom the guest takes memory back rather than kill a process."""
    stats, name = os.path.join(b.tmp, "stats.json"), "balloon-%d" % os.getpid()
    with b.boot("--name", name, "--balloon", "320M,deflate-on-oom,stats=1", "--stats", stats) as m:
        m.shell()
        m.ok("while [ $(grep MemTotal /proc/meminfo | tr -dc 0-9) -gt 480000 ]; do sleep 0.2; done")
        time.sleep(3)
        m.ok("mkdir /fill && mount -t tmpfs -o size=400m none /fill && %s" % WRITE % 230, 300)
        if "Killed" in m.text or "Out of memory" in m.ok("dmesg"):
            raise Fail("a process was killed")
        m.ok("rm /fill/f; umount /fill")
        got = balloon(b, name)  # while it runs: newer Linux resets its devices when it powers off
        if got.get("free_memory", 0) == 0 or got.get("total_memory", 0) < 100 * MIB:
            raise Fail("no statistics: %r" % got)
        m.poweroff()
    with open(stats, encoding="ascii") as f:
        got = json.load(f)["balloon"]
    if got["deflated_bytes"] < 50 * MIB:
        raise Fail("the guest took nothing back: %r" % got)


@case("balloon:reporting")
def reporting(b):
    """Memory that the guest frees comes back without being asked for."""
    with b.boot("--balloon", "0,reporting", "--cpus", "2") as m:
        m.shell()
        full = fill(m, 200)
        settle(m, full - 120 * MIB)
        fill(m, 200)
        m.poweroff()
