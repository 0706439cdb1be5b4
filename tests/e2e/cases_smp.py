# SPDX-License-Identifier: MIT
"""Processors against each other: tests/e2e/guest/smp_hammer.c adds up what all of them did and compares."""
from machine import Fail
from registry import add, case


def hammer(b, cpus, seconds):
    with b.start("--kernel", b.guest64("smp_hammer"), "--cpus", str(cpus), "--mem", "64M", "--debug-exit",
                 "--append", "cpus=%d seconds=%d" % (cpus, seconds)) as m:
        m.ends(0x20 << 1 | 1, seconds + 120)
        if "smp_hammer: ok" not in m.text:
            raise Fail("the guest does not say that all is well: %r" % m.text[-400:])


# The minute, and short runs: alone, more processors than the host has, and with the sanitizers.
add("smp:4cpu-minute", hammer, 4, 60)
add("smp:1cpu", hammer, 1, 2)
add("smp:2cpu", hammer, 2, 4)
add("smp:16cpu", hammer, 16, 4)
add("smp:4cpu", hammer, 4, 6, modes=("asan", "tsan"))
add("smp:32cpu", hammer, 32, 10, nightly=True)


@case("smp:can-fail")
def can_fail(b):
    """The same guest without one LOCK prefix: it must notice. On a busy host the threads may take turns so neatly that
    nothing is lost, so it gets several chances."""
    for _ in range(8):
        with b.start("--kernel", b.guest64("smp_hammer", "-DUNLOCKED"), "--cpus", "4", "--mem", "64M", "--debug-exit",
                     "--append", "cpus=4 seconds=4") as m:
            if m.wait(120) == 0x21 << 1 | 1:
                return
    raise Fail("a guest that loses updates was found correct: %r" % m.text[-400:])
