# SPDX-License-Identifier: MIT
"""Bad input gets exit status 1 and one clear line, never a signal."""
import concurrent.futures
import os
import subprocess

from hostile import GROUPS, Corpus
from machine import Fail, Skip
from registry import add, case

MODES = ("rel", "asan")


def verdict(b, name, args, refuse):
    """None when gazda behaved, else what it did."""
    argv = [b.gazda, "run", "--no-reboot", "--serial", "null"] + args
    if "--serial" in args:
        argv = [b.gazda, "run", "--no-reboot"] + args
    # What may run is given some time to misbehave; what must be refused is refused at once, on a slow host too.
    p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        out, err = p.communicate(timeout=60 * b.scale if refuse else 1.5 * min(b.scale, 3))
    except subprocess.TimeoutExpired:
        p.terminate()
        try:
            out, err = p.communicate(timeout=20 * b.scale)
        except subprocess.TimeoutExpired:
            p.kill()
            p.communicate()
            return "%s: does not end on SIGTERM" % name
        if refuse:
            return "%s: is not refused" % name
        if p.returncode in (128 + 15, 0, 3):  # it may have crashed at the last moment
            return None
        if p.returncode != 1:
            return "%s: status %s on SIGTERM: %r" % (name, p.returncode, err[-600:])
    text = err.decode(errors="replace")
    if p.returncode == 1:
        if text.count("\n") != 1 or not text.startswith("gazda: ") or len(text) > 600 or len(text) < 20:
            return "%s: not one clear line: %r" % (name, text[:600])
        if any(ord(ch) < 32 for ch in text[:-1]):
            return "%s: control characters in the message: %r" % (name, text)
        return None
    if not refuse and p.returncode in (0, 3):
        return None
    return "%s: status %s: %r" % (name, p.returncode, text[-600:])


def hostile(b, group):
    if not os.path.exists(b.gazda):
        raise Skip("%s is not built" % b.gazda)
    c = Corpus(b.tmp)
    GROUPS[group](c)
    # Half of it has to do for the sanitizers, which are slow; at night they get it all.
    entries = c.entries if b.mode == "rel" or b.nightly else c.entries[::2]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda e: verdict(b, *e), entries))
    bad = [r for r in results if r]
    if bad:
        raise Fail("%d of %d: %s" % (len(bad), len(results), "\n".join(bad[:40])))


for g in GROUPS:
    add("hostile:" + g, hostile, g, modes=MODES, seconds=600)


@case("hostile:count")
def count(b):
    c = Corpus(b.tmp)
    for g in GROUPS.values():
        g(c)
    if len(c.entries) < 200:
        raise Fail("the corpus has %d entries" % len(c.entries))


@case("hostile:real-kernel")
def real(b):
    """The stock kernel, cut and damaged."""
    kernel, initrd, _ = b.kernel("amd64", "bz")
    with open(kernel, "rb") as f:
        data = f.read()
    bad = []
    for name, image in (("cut in half", data[:len(data) // 2]), ("cut by 64 KiB", data[:-65536]),
                        ("payload damaged", data[:4 << 20] + b"\0" * 4096 + data[(4 << 20) + 4096:])):
        r = verdict(b, name, ["--kernel", b.file("k", image), "--initrd", initrd, "--mem", "256M"], name != "cut by 64 KiB")
        if r:
            bad.append(r)
    if bad:
        raise Fail("\n".join(bad))
