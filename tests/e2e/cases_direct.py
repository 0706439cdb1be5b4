# SPDX-License-Identifier: MIT
"""User code in stub processes: it computes what it should, is stopped by the guest's clock, and leaves nobody behind."""
import json
import os
import signal
import subprocess
import time

from machine import Fail, Skip
from registry import case

# 200 rounds through awk, sort and md5sum of the appliance's shell; the host has the same tools.
WORK = ("i=0; while [ $i -lt 40 ]; do seq 1 400 | awk '{ s += $1 * %d; print s }' | sort -r | md5sum; i=$((i+1)); done | "
        "md5sum | cut -c1-32")


def stubs():
    """Processes of that name, by parent."""
    found = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % pid, encoding="ascii", errors="replace") as f:
                text = f.read()
        except OSError:
            continue
        name, rest = text[text.index("(") + 1:text.rindex(")")], text[text.rindex(")") + 2:].split()
        if name == "gazda-guest" and rest[0] != "Z":
            found.setdefault(int(rest[1]), []).append(int(pid))
    return found


def group(node, name):
    """The counters of that group, wherever they are in the JSON."""
    inner = node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
    if isinstance(node, dict) and name in node:
        return node[name]
    return next((g for g in (group(v, name) for v in inner) if g is not None), None)


def stats_of(b, when):
    with open(os.path.join(b.tmp, "stats." + when), encoding="utf-8") as f:
        return json.load(f)


@case("direct", seconds=300)
def direct(b):
    """All user code that can runs in stubs; the results are those of the same machine without."""
    got = {}
    for when in ("off", "on", "auto"):
        path = os.path.join(b.tmp, "stats." + when)
        with b.boot("--engine", "translate", "--direct", when, "--stats", path) as m:
            m.shell(120)
            got[when] = [m.ok(WORK % k, 120).strip() for k in (3, 7)]
            m.ok("sleep 1", 30)
            m.poweroff(60)
            if m.stderr():
                raise Fail("--direct %s wrote to stderr: %s" % (when, m.stderr()[:2000]))
    if got["on"] != got["off"] or got["auto"] != got["off"]:
        raise Fail("directly %s, translated %s, both %s" % (got["on"], got["off"], got["auto"]))
    stats, auto = (stats_of(b, when) for when in ("on", "auto"))
    traps = group(stats, "direct_traps")
    if traps["all"] == 0:
        raise Skip("this host gives no stub process")
    if group(stats, "direct")["lost_processes"] or traps["system_calls"] < 1000:
        raise Fail("direct execution: %s, %s" % (group(stats, "direct"), traps))
    if group(auto, "direct")["entries_for_new_code"] == 0:
        raise Fail("--direct auto: new code never ran directly: %s" % group(auto, "direct"))


@case("direct:killed", seconds=120)
def killed(b):
    """kill -9 of stubs: what ran in one ends, the rest of the guest goes on. kill -9 of gazda: no stub is left."""
    with b.boot("--engine", "translate", "--direct", "on") as m:
        m.shell(60)
        m.ok("sh -c 'while :; do :; done' & sleep 1", 60)
        mine = stubs().get(m.proc.pid)
        if not mine:
            raise Skip("this host gives no stub process")
        for pid in mine:
            os.kill(pid, signal.SIGKILL)
        time.sleep(3)  # what ran in them ends, perhaps the shell, and then there is a new one
        m.send("\n")
        m.expect("gazda:", 60)
        m.ok("seq 1 1000 | md5sum", 60)
        again = stubs().get(m.proc.pid, [])
        os.kill(m.proc.pid, signal.SIGKILL)
        m.proc.wait()
        end = time.monotonic() + 10
        while any(os.path.exists("/proc/%d" % p) for p in again):
            if time.monotonic() > end:
                raise Fail("stubs %s are still there" % again)
            time.sleep(0.1)


@case("direct:refused", seconds=60)
def refused(b):
    """A choice that there is not."""
    r = subprocess.run([b.gazda, "run", "--direct", "maybe"], stderr=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL,
                       timeout=30, check=False)
    if r.returncode == 0 or "auto, off or on" not in r.stderr:
        raise Fail("--direct maybe: status %d, %r" % (r.returncode, r.stderr))
