# SPDX-License-Identifier: MIT
"""Stock Debian kernels boot to a shell, see the machine that was asked for, and power off."""
import itertools
import re

from machine import Fail
from registry import add, case

BAD = re.compile(r"BUG:|WARNING: CPU|Oops|Kernel panic|Call Trace|soft lockup|rcu.*stall|unchecked MSR|"
                 r"Marking clocksource|general protection|double fault|ACPI Error|APIC error|nobody cared")


def size_of(mem):
    return int(mem[:-1]) << {"M": 20, "G": 30}[mem[-1]]


def check_machine(m, version, cpus, mem, limit=None):
    out = m.ok("uname -r").strip()
    if out != version:
        raise Fail("uname -r says %r, not %r" % (out, version))
    out = m.ok("grep -c ^processor /proc/cpuinfo").strip()
    if out != str(cpus):
        raise Fail("%s processors, not %d" % (out, cpus))
    # What the firmware's map gave, as the kernel counted it: "Memory: 450000K/523768K available".
    total = int(re.search(r"Memory: \d+K/(\d+)K available", m.text).group(1)) << 10
    want = min(size_of(mem), limit or size_of(mem))
    if not want - (2 << 20) <= total <= want:
        raise Fail("the kernel counts %d bytes of memory of %d" % (total, want))
    bad = BAD.search(m.text)
    if bad:
        line = m.text[m.text.rfind("\n", 0, bad.start()) + 1:].split("\n", 1)[0]
        raise Fail("the kernel complains: %s" % line.strip())


def boot(b, flavour, form, cpus, mem):
    _, _, version = b.kernel(flavour, form)
    with b.boot("--cpus", str(cpus), "--mem", mem, flavour=flavour, form=form) as m:
        m.shell()
        # The plain 686 kernel has no PAE: it sees what lies below the MMIO gap.
        check_machine(m, version, cpus, mem, limit=3 << 30 if flavour == "686" else None)
        if flavour in ("amd64", "cloud-amd64"):
            clock = m.ok("cat /sys/devices/system/clocksource/clocksource0/current_clocksource").strip()
            # With an invariant TSC in CPUID Linux rates tsc above kvm-clock.
            if clock not in ("kvm-clock", "tsc"):
                raise Fail("the clock source is %s, not kvm-clock or tsc" % clock)
        m.poweroff()
        if m.stderr():
            raise Fail("a clean run wrote to stderr: %s" % m.stderr()[-300:])


# make check covers each value of each dimension, and the pairs that touch each other most (memory across the MMIO
# gap with several CPUs; the least memory with the largest kernel). The nightly run has them all.
CHECK = {
    ("amd64", "bz", 1, "512M"), ("amd64", "pvh", 2, "128M"), ("amd64", "bz", 4, "6G"),
    ("cloud-amd64", "bz", 2, "128M"), ("cloud-amd64", "pvh", 4, "512M"), ("cloud-amd64", "pvh", 1, "6G"),
    ("686", "bz", 1, "128M"), ("686-pae", "pvh", 2, "512M"),
}
ALL = list(itertools.product(("amd64", "cloud-amd64"), ("bz", "pvh"), (1, 2, 4), ("128M", "512M", "6G"))) + \
    list(itertools.product(("686",), ("bz",), (1, 2, 4), ("128M", "512M", "6G"))) + \
    list(itertools.product(("686-pae",), ("bz", "pvh"), (1, 2, 4), ("128M", "512M", "6G")))
for t in ALL:
    add("boot:%s:%s:%dcpu:%s" % t, boot, *t, nightly=t not in CHECK,
        modes=("rel", "asan") if t == ("cloud-amd64", "bz", 2, "128M") else ("rel",))


@case("boot:32cpus", nightly=True, seconds=1800)
def boot_32(b):
    boot(b, "cloud-amd64", "bz", 32, "512M")


@case("boot:stub", nightly=True, seconds=1800)
def boot_stub(b):
    """The kernel decompresses itself."""
    with b.boot("--boot", "stub", flavour="cloud-amd64") as m:
        m.shell(1500)
        m.poweroff()


@case("reboot")
def reboot(b):
    with b.boot("--cpus", "2", flavour="cloud-amd64") as m:
        m.shell()
        m.send("reboot\n")
        m.expect(r"Linux version", 120)
        m.shell()
        m.poweroff()


@case("reboot:no-reboot")
def no_reboot(b):
    with b.boot("--no-reboot", flavour="cloud-amd64") as m:
        m.shell()
        m.send("reboot\n")
        m.ends(0)


@case("panic")
def panic(b):
    """A panic with panic=-1 restarts at once; with --no-reboot that ends the machine."""
    with b.boot("--no-reboot", "--append", "console=ttyS0 panic=-1", flavour="cloud-amd64") as m:
        m.shell()
        m.send("echo c >/proc/sysrq-trigger\n")
        m.expect(r"Kernel panic", 60)
        m.ends(0)
