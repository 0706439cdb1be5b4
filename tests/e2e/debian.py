# SPDX-License-Identifier: MIT
"""The Debian system that guest/debian/build makes: where it is, how a test boots it, and the way in by ssh."""
import os
import shutil
import socket
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


def start(b, overlay, *args, append=""):
    """A machine on the image, whose writes go to the file overlay."""
    f = files(b)
    return b.start("--kernel", f["kernel"], "--initrd", f["initrd"], "--append", "console=ttyS0 root=/dev/vda rw" + append,
                   "--disk", "%s,format=qcow2,overlay=%s" % (f["disk"], overlay), "--mem", "1G", "--cpus", "2", *args)


def running(m, seconds=300):
    """Waits until every job of the start is done; fails when a unit has failed, and says which."""
    status, state = m.run("systemctl is-system-running --wait", seconds)
    if status != 0 or state.strip() != "running":
        units = m.run("systemctl list-units --failed --plain --no-legend --no-pager; systemctl list-jobs --no-pager")[1]
        raise Fail("the system is %s: %s" % (state.strip(), units))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Ssh:
    """root's way in, by a port of the host that leads to the guest's sshd."""

    def __init__(self, b, port):
        if not shutil.which("ssh"):
            raise Skip("ssh is not installed")
        self.b = b
        # ssh takes no key that others can read, and the cache may be anybody's.
        key = os.path.join(b.tmp, "id")
        shutil.copyfile(files(b)["key"], key)
        os.chmod(key, 0o600)
        self.argv = ["ssh", "-F", "/dev/null", "-i", key, "-p", str(port), "-o", "StrictHostKeyChecking=no", "-o",
                     "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR", "-o", "BatchMode=yes", "-o",
                     "ConnectTimeout=60", "root@127.0.0.1"]

    def ok(self, command, seconds=120, stdin=None):
        """Runs a command; its output, as bytes."""
        r = subprocess.run(self.argv + [command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, check=False,
                           input=stdin if stdin is not None else b"", timeout=seconds * self.b.scale)
        if r.returncode != 0:
            raise Fail("ssh %s: status %d: %s" % (command, r.returncode, (r.stdout + r.stderr)[-600:]))
        return r.stdout
