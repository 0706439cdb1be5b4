# SPDX-License-Identifier: MIT
"""Stock programs of Debian under load for a long time: a compiler, compression, fork storms, an interpreter, sorting,
all at once. Each result must be that of the first round; the guest's kernel must have nothing to complain about, its
clock must keep the host's time, and the monitor must not grow."""
import os
import re
import sys
import time

from machine import Fail, Skip
from registry import add

TOP = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", ".."))
WORK = ["cc1", "gzip", "dash", "python", "coresort", "perl", "sqlite"]
LOOP = """work() { want= n=0
while [ ! -e /tmp/stop ]; do
got=$(chroot /bench/root sh -c "cd /bench && sh $1.sh 2>&1" | cksum)
[ -n "$want" ] || want=$got
[ "$got" = "$want" ] || echo "$1: round $n: $got, not $want" >>/tmp/wrong
n=$((n + 1)); echo $n >/tmp/rounds.$1
done; }"""
COMPLAINTS = r"BUG|Oops|WARNING|stall|lockup|Call Trace|segfault|general protection|traps:|unstable|hung task|corrupt"
GROWTH = 96 << 20
DRIFT = 1.0


def monitor_bytes(m):
    """Memory of the monitor besides the guest's."""
    with open("/proc/%d/status" % m.proc.pid, encoding="ascii") as f:
        kb = dict(re.findall(r"^(VmRSS|RssShmem):\s+(\d+) kB", f.read(), re.M))
    return (int(kb["VmRSS"]) - int(kb["RssShmem"])) << 10


def clocks(m):
    before = time.monotonic()
    guest = float(m.ok("cat /proc/uptime", 120).split()[0])
    return guest, before, time.monotonic()


def programs():
    sys.path.insert(0, os.path.join(TOP, "bench"))
    import root
    try:
        return root.build(os.environ.get("GAZDA_CACHE", os.path.join(TOP, "out", "cache")))[1]["base"]
    except RuntimeError as e:
        raise Skip(str(e))


def soak(b, seconds, cpus):
    seconds = int(os.environ.get("GAZDA_SOAK_SECONDS", seconds))
    with b.boot("--engine", "translate", "--mem", "1536M", "--cpus", str(cpus), "--initrd", programs()) as m:
        m.shell()
        m.ok("mount -t devtmpfs none /bench/root/dev; mount -t proc none /bench/root/proc")
        m.ok(LOOP.replace("do\n", "do ").replace("\n", "; "))
        for name in WORK:
            m.ok("{ work %s >/dev/null 2>&1 & }" % name)
        first, early, latest = clocks(m)
        end, small = time.monotonic() + seconds, None
        while time.monotonic() < end:
            time.sleep(min(20, seconds / 4))
            guest, before, after = clocks(m)
            gone = guest - first
            if gone < before - latest - DRIFT or gone > after - early + DRIFT:
                raise Fail("the guest's clock went %.2f s in %.2f s" % (gone, after - early))
            if m.run("cat /tmp/wrong")[0] == 0:
                raise Fail("a program's output differs: %s" % m.ok("cat /tmp/wrong"))
            if small is None and time.monotonic() > end - 3 * seconds / 4:
                small = monitor_bytes(m)
        if small is not None and monitor_bytes(m) > small + GROWTH:
            raise Fail("the monitor grew from %d to %d MiB" % (small >> 20, monitor_bytes(m) >> 20))
        m.ok("touch /tmp/stop; wait", 600)
        rounds = m.ok("cd /tmp; grep . rounds.*; cd /")
        if len(re.findall(r"rounds\.\w+:\d+", rounds)) != len(WORK):
            raise Fail("not every program came to its end: %r" % rounds)
        print("# %s" % " ".join(rounds.split()), flush=True)
        m.ok("dmesg | grep -q Linux")
        status, said = m.run("dmesg | grep -E '%s'" % COMPLAINTS)
        if status == 0:
            raise Fail("the guest's kernel complains: %s" % said[-600:])
        m.poweroff()


add("soak:1cpu", soak, 3600, 1, seconds=4800, nightly=True)
add("soak:2cpu", soak, 600, 2, seconds=1800, nightly=True)
add("soak:minute", soak, 60, 2, seconds=600, nightly=True)
