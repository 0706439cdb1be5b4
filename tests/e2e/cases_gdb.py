# SPDX-License-Identifier: MIT
"""The gdb stub, driven by a scripted gdb."""
import os
import re
import shutil
import subprocess

from machine import Fail, Skip
from registry import case

SCRIPT = """
set pagination off
set confirm off
set architecture i386:x86-64
target remote %(where)s
echo ==start\\n
info registers rip
break *loop
continue
echo ==atloop\\n
info registers rip rbx
x/2i $pc
stepi
echo ==stepped\\n
info registers rip rcx
delete
hbreak *store
continue
echo ==atstore\\n
info registers rip rcx
delete
watch *(int *)%(watched)d
continue
echo ==watched\\n
print/x *(int *)%(watched)d
delete
rwatch *(int *)%(watched)d
set var *(int *)%(stop)d = 1
set var $rbx = 0x77
continue
echo ==read\\n
info registers rip rbx
delete
info threads
print/x *(int *)0x100000
continue
"""


def value(text, section, reg):
    part = text.split("==%s\n" % section, 1)
    if len(part) < 2:
        raise Fail("gdb never came to %s: %s" % (section, text[-600:]))
    m = re.search(r"^%s\s+(0x[0-9a-f]+)" % reg, part[1].split("\n==")[0], re.M)
    if not m:
        raise Fail("no %s after %s: %s" % (reg, section, part[1][:300]))
    return int(m.group(1), 16)


def symbols(path):
    out = subprocess.run(["nm", path], stdout=subprocess.PIPE, text=True, check=True).stdout
    return {l.split()[2]: int(l.split()[0], 16) for l in out.splitlines() if len(l.split()) == 3}


def expect_eq(what, got, want):
    if got != want:
        raise Fail("%s is 0x%x, not 0x%x" % (what, got, want))


def session(b, script, *args):
    if not shutil.which("gdb"):
        raise Skip("gdb is not installed")
    image = b.guest("gdb")
    sock = os.path.join(b.tmp, "gdb.sock")
    with b.start("--kernel", image, "--debug-exit", "--mem", "16M", "--gdb", "unix:" + sock, *args) as m:
        for _ in range(200):
            if os.path.exists(sock):
                break
            m.pump(0.1)
        path = b.file("script.gdb", (script % dict(symbols(image), where=sock)).encode())
        p = subprocess.run(["gdb", "-nx", "-batch", "-x", path, image], stdout=subprocess.PIPE,
                           stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True, timeout=120 * b.scale,
                           check=False)
        with open(b.log, "a", encoding="utf-8") as f:
            f.write(p.stdout)
        m.ends((7 << 1) | 1, 60)
    return p.stdout, symbols(image)


def check_script(out, sym):
    expect_eq("rip at the break point", value(out, "atloop", "rip"), sym["loop"])
    expect_eq("rbx at the break point", value(out, "atloop", "rbx"), 0x1234)
    expect_eq("rip after the step", value(out, "stepped", "rip"), sym["loop"] + 1)
    expect_eq("rcx after the step", value(out, "stepped", "rcx"), 1)
    expect_eq("rip at the hardware break point", value(out, "atstore", "rip"), sym["store"])
    expect_eq("rcx there", value(out, "atstore", "rcx"), 1000)
    if "Old value = 0\n" not in out or "New value = 23130\n" not in out:
        raise Fail("the watch point did not show the change: %s" % out[-800:])
    expect_eq("rip after the read watch point", value(out, "read", "rip"), sym["done"] + 5)
    expect_eq("the rbx that gdb wrote", value(out, "read", "rbx"), 0x77)


@case("gdb:script", seconds=300)
def gdb_script(b):
    """Break points of both kinds, watch points, single step, registers and memory read and written."""
    out, sym = session(b, SCRIPT)
    check_script(out, sym)


@case("gdb:smp", seconds=300)
def gdb_smp(b):
    """The same with four vCPUs, three of which wait for their start-up; all are shown as threads."""
    out, sym = session(b, SCRIPT, "--cpus", "4")
    check_script(out, sym)
    if "vCPU 3" not in out:
        raise Fail("four threads were expected: %s" % out[-600:])


@case("gdb:bad-address")
def gdb_bad_address(b):
    """An address that cannot be listened at is a set-up error."""
    for where in ("1234", ":99999", ":x", "unix:" + "a" * 200, "unix:/nonexistent/dir/sock"):
        with b.start("--kernel", b.guest("gdb"), "--mem", "16M", "--gdb", where) as m:
            m.ends(1, 30)
            lines = m.stderr().strip().split("\n")
            if len(lines) != 1 or "--gdb" not in lines[0]:
                raise Fail("--gdb %s: not one clear line: %r" % (where[:40], m.stderr()))
