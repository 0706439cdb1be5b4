# SPDX-License-Identifier: MIT
"""Looking into the translator: --verify, --trace, --perf-map."""
import os
import re
import subprocess

from machine import Fail
from registry import case


@case("verify:boot", nightly=True, seconds=7200)
def verify_boot(b):
    """A stock kernel boots to a shell with every block run by the interpreter too; nothing differs."""
    path = os.path.join(b.tmp, "stats.json")
    with b.boot("--engine", "translate", "--verify", "--stats", path, flavour="cloud-amd64") as m:
        m.shell(5400)
        m.ok("uname -r", 300)
        m.poweroff(900)
        if m.stderr():
            raise Fail("--verify wrote to stderr: %s" % m.stderr()[:2000])
    check_verified(path, 100_000_000)


def check_verified(path, least):
    with open(path, encoding="utf-8") as f:
        n = int(re.search(r'"verify": \{\s*"instructions": (\d+)', f.read()).group(1))
    if n < least:
        raise Fail("only %d instructions were verified" % n)


@case("verify:guest", seconds=300)
def verify_guest(b):
    """The same with a guest of a few instructions; and who else cannot be verified."""
    path = os.path.join(b.tmp, "stats.json")
    with b.start("--kernel", b.guest("debugexit", "-DVALUE=21"), "--debug-exit", "--mem", "16M", "--engine",
                 "translate", "--verify", "--stats", path) as m:
        m.expect("debug exit", 60)
        m.ends(43)
        if m.stderr():
            raise Fail("--verify wrote to stderr: %s" % m.stderr()[:2000])
    check_verified(path, 10)
    r = subprocess.run([b.gazda, "run", "--engine", "interp", "--verify"], stderr=subprocess.PIPE, text=True,
                       stdin=subprocess.DEVNULL, timeout=60, check=False)
    if r.returncode != 1 or "--verify" not in r.stderr or r.stderr.count("\n") != 1:
        raise Fail("--engine interp --verify: status %d, %r" % (r.returncode, r.stderr))


@case("trace", seconds=300)
def trace(b):
    """Lines about blocks with the code of guest and host, and symbols for perf."""
    path = os.path.join(b.tmp, "trace")
    with b.start("--kernel", b.guest("debugexit", "-DVALUE=21"), "--debug-exit", "--mem", "16M", "--engine",
                 "translate", "--trace", path + ",asm,exec", "--perf-map") as m:
        symbols = "/tmp/perf-%d.map" % m.proc.pid
        m.expect("debug exit", 60)
        m.ends(43)
    with open(path, encoding="ascii") as f:
        text = f.read()
    blocks = re.findall(r"^block vcpu=0 rip=0x([0-9a-f]+) gpa=0x[0-9a-f]+ kind=32,kernel-ac\S* insns=\d+ bytes=\d+ "
                        r"host=0x([0-9a-f]+) size=(\d+)$", text, re.M)
    if not blocks:
        raise Fail("--trace has no block of 32-bit code: %s" % text[:400])
    if not re.search(r"^    [0-9a-f]{16}  ee +out dx, al$", text, re.M) or "        0000" not in text:
        raise Fail("--trace FILE,asm has no code: %s" % text[:800])
    if not re.search(r"^exec vcpu=0 rip=0x%s$" % blocks[0][0], text, re.M):
        raise Fail("--trace FILE,exec does not tell that the first block was entered")
    with open(symbols, encoding="ascii") as f:
        names = f.read().split("\n")
    os.unlink(symbols)
    for rip, host, size in blocks:
        if "%s %x guest-kernel:%s" % (host, int(size), rip) not in names:
            raise Fail("--perf-map has no symbol for the block at %s: %s" % (rip, names[:4]))
    r = subprocess.run([b.gazda, "run", "--engine", "interp", "--trace", path], stderr=subprocess.PIPE, text=True,
                       stdin=subprocess.DEVNULL, timeout=60, check=False)
    if r.returncode != 1 or "--trace" not in r.stderr:
        raise Fail("--engine interp --trace: status %d, %r" % (r.returncode, r.stderr))
