# SPDX-License-Identifier: MIT
"""The Debian system that guest/debian/build makes: where it is, and how a test boots a copy of it."""
import os
import subprocess

from machine import Fail, Skip

FILES = {"disk": "disk.qcow2", "kernel": "vmlinuz", "initrd": "initrd", "key": "id"}


def files(b):
    """The paths of the image, its kernel and initrd, and the key of its root. The image is never written to."""
    folder = os.path.join(os.environ.get("GAZDA_CACHE", os.path.join(b.top, "out", "cache")), "debian")
    paths = {k: os.path.join(folder, f) for k, f in FILES.items()}
    missing = [p for p in paths.values() if not os.path.exists(p)]
    if missing:
        why = "not built yet: make guests"
        try:
            with open(os.path.join(folder, "failed"), encoding="utf-8") as f:
                why = f.read().strip()
        except OSError:
            pass
        raise Skip("no Debian image (%s)" % why)
    return paths


def raw(b):
    """A raw copy that the test may write to."""
    path = os.path.join(b.tmp, "debian.raw")
    subprocess.run(["qemu-img", "convert", "-O", "raw", files(b)["disk"], path], check=True)
    return path


def start(b, disk, *args):
    """A machine that boots disk, a --disk option's value."""
    f = files(b)
    return b.start("--kernel", f["kernel"], "--initrd", f["initrd"], "--append", "console=ttyS0 root=/dev/vda rw",
                   "--disk", disk, "--mem", "1G", "--cpus", "2", *args)


def running(m, seconds=300):
    """Waits until every job of the start is done; fails when a unit has failed, and says which."""
    status, state = m.run("systemctl is-system-running --wait", seconds)
    if status != 0 or state.strip() != "running":
        units = m.run("systemctl list-units --failed --plain --no-legend --no-pager; systemctl list-jobs --no-pager")[1]
        raise Fail("the system is %s: %s" % (state.strip(), units))
