# SPDX-License-Identifier: MIT
"""Disk images in formats: gazda image, and machines on qcow2 images and overlays."""
import hashlib
import json
import os
import shutil
import signal
import subprocess
import time

from machine import Fail, Skip
from registry import case

MIB = 1 << 20


def gazda(b, *args, status=0):
    r = subprocess.run([b.gazda, "image"] + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       stdin=subprocess.DEVNULL, timeout=300 * b.scale, text=True, check=False)
    if r.returncode != status:
        raise Fail("image %s: status %d, not %d: %s%s" % (" ".join(args), r.returncode, status, r.stdout, r.stderr))
    if status == 1 and r.stderr.count("\n") != 1:
        raise Fail("image %s: not one line on stderr: %r" % (" ".join(args), r.stderr))
    return r.stdout


def tool(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if not path:
        raise Skip("%s is not installed" % name)
    return path


def digest(path):
    with open(path, "rb") as f:
        return hashlib.sha256(f.read()).hexdigest()


def some_data(path, size=24 * MIB):
    """Something that compresses, something that does not, and holes."""
    with open(path, "wb") as f:
        f.write(os.urandom(3 * MIB))
        f.seek(8 * MIB)
        f.write(b"compressible " * 100000)
        f.truncate(size)


@case("image:force", seconds=120, modes=("rel", "asan"))
def image_force(b):
    """--force replaces a file, but a command that is refused leaves it, and no image becomes an overlay of itself."""
    p = lambda name: os.path.join(b.tmp, name)
    some_data(p("a.raw"))
    gazda(b, "convert", p("a.raw"), p("b.qcow2"))
    gazda(b, "create", "-b", "b.qcow2", "-F", "qcow2", p("o.qcow2"))
    os.link(p("b.qcow2"), p("same.qcow2"))
    want = digest(p("b.qcow2"))
    for args in (["create", "-b", "b.qcow2", "-F", "qcow2", p("b.qcow2")], ["create", p("b.qcow2"), "99999T"],
                 ["create", "-b", "o.qcow2", "-F", "qcow2", p("b.qcow2")],
                 ["create", "-b", "same.qcow2", "-F", "qcow2", p("b.qcow2")],
                 ["create", "-f", "raw", "-b", "a.raw", "-F", "raw", p("b.qcow2")],
                 ["create", "--compat", "v2", "--compression", "zstd", p("b.qcow2"), "1M"],
                 ["convert", "--compat", "v2", "--lazy-refcounts", p("a.raw"), p("b.qcow2")],
                 ["convert", "-f", "qcow2", p("o.qcow2"), p("b.qcow2")]):
        gazda(b, args[0], "--force", *args[1:], status=1)
        if digest(p("b.qcow2")) != want:
            raise Fail("image %s --force was refused and changed the file" % " ".join(args))
    gazda(b, "create", "--force", "-b", "a.raw", "-F", "raw", p("b.qcow2"))


@case("image:tool", seconds=300, modes=("rel", "asan"))
def image_tool(b):
    """Each subcommand; what it makes holds what it should."""
    p = lambda name: os.path.join(b.tmp, name)
    some_data(p("a.raw"))
    want = digest(p("a.raw"))
    gazda(b, "convert", p("a.raw"), p("b.qcow2"))
    gazda(b, "convert", "-c", "-O", "qcow2", p("a.raw"), p("c"))
    gazda(b, "convert", "-c", "--compression", "zstd", "--cluster-size", "4K", p("b.qcow2"), p("d.qcow2"))
    for name in ("b.qcow2", "c", "d.qcow2"):
        gazda(b, "check", p(name))
        gazda(b, "convert", p(name), p("back"))
        if digest(p("back")) != want:
            raise Fail("%s does not hold what it was made from" % name)
        os.unlink(p("back"))
    if os.path.getsize(p("c")) > 4 * MIB or os.stat(p("b.qcow2")).st_blocks * 512 > 6 * MIB:
        raise Fail("the images are too large")
    gazda(b, "convert", p("a.raw"), p("b.qcow2"), status=1)
    gazda(b, "create", "-b", "a.raw", "-F", "raw", p("o.qcow2"))
    gazda(b, "resize", p("o.qcow2"), "+1M", status=1)
    gazda(b, "resize", "-f", "qcow2", p("o.qcow2"), "+1M")
    info = json.loads(gazda(b, "info", "--json", p("o.qcow2")))
    if info["virtual-size"] != 25 * MIB or info["backing-filename"] != "a.raw":
        raise Fail("info: %s" % info)
    gazda(b, "commit", p("o.qcow2"))
    if os.path.getsize(p("a.raw")) != 25 * MIB:
        raise Fail("commit did not make the backing file larger")
    gazda(b, "resize", p("a.raw"), "24M", status=1)
    gazda(b, "resize", "--shrink", p("a.raw"), "24M")
    if digest(p("a.raw")) != want:
        raise Fail("the backing file changed")
    gazda(b, "check", p("a.raw"), status=1)
    with open(p("b.qcow2"), "r+b") as f:  # the refcount of the first cluster of data
        f.seek(2 * 65536 + 8)
        f.write(bytes(2))
    gazda(b, "check", p("b.qcow2"), status=2)
    gazda(b, "check", "--repair", p("b.qcow2"))
    gazda(b, "check", p("b.qcow2"))


@case("image:interrupted", seconds=120)
def interrupted(b):
    """^C ends a conversion with 130 and leaves nothing."""
    src, dst = os.path.join(b.tmp, "src"), os.path.join(b.tmp, "dst")
    with open(src, "wb") as f:
        for _ in range(200):
            f.write(os.urandom(MIB))
    p = subprocess.Popen([b.gazda, "image", "convert", "-c", "-O", "qcow2", src, dst], stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not os.path.exists(dst) and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.1)
    p.send_signal(signal.SIGINT)
    p.wait(60)
    if p.returncode != 130 or os.path.exists(dst):
        raise Fail("status %d, %s" % (p.returncode, os.path.exists(dst) and "the output is there"))


def write_file(m):
    m.ok("mkdir -p /mnt && mount -t ext4 /dev/vda /mnt")
    m.ok("dd if=/dev/urandom of=/mnt/f bs=64k count=64 2>/dev/null; sync; echo 3 >/proc/sys/vm/drop_caches", 120)
    m.ok("rm -rf /mnt/lost+found; fstrim /mnt || true; sync")
    want = m.ok("sha256sum /mnt/f").split()[0]
    m.ok("umount /mnt")
    return want


@case("image:overlay")
def overlay(b):
    """An image under overlays stays as it is; the named one keeps what was written, on top of a compressed image."""
    raw, base, top = (os.path.join(b.tmp, n) for n in ("raw", "base.qcow2", "top.qcow2"))
    with open(raw, "wb") as f:
        f.truncate(96 * MIB)
    subprocess.run([tool("mkfs.ext4"), "-q", raw], check=True)
    gazda(b, "convert", "-c", raw, base)
    before = digest(base)
    with b.boot("--disk", base + ",overlay", "--disk", base + ",overlay=" + top, flavour="cloud-amd64") as m:
        m.shell()
        write_file(m)
        m.ok("mount -t ext4 /dev/vdb /mnt && dd if=/dev/urandom of=/mnt/g bs=64k count=64 2>/dev/null")
        want = m.ok("sha256sum /mnt/g").split()[0]
        m.ok("umount /mnt")
        m.poweroff()
    if digest(base) != before:
        raise Fail("the image under the overlays changed")
    gazda(b, "check", "-f", "qcow2", top)
    with b.boot("--disk", top + ",format=qcow2", flavour="cloud-amd64") as m:
        m.shell()
        m.ok("mkdir -p /mnt && mount -t ext4 /dev/vda /mnt && test ! -e /mnt/f")
        if m.ok("sha256sum /mnt/g").split()[0] != want:
            raise Fail("the overlay lost what was written")
        m.ok("umount /mnt")
        m.poweroff()
    gazda(b, "commit", top)
    gazda(b, "convert", "--force", base, raw)
    out = subprocess.run([tool("e2fsck"), "-fn", raw], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if out.returncode != 0:
        raise Fail("e2fsck: %s" % out.stdout[-600:])


@case("image:killed")
def killed(b):
    """kill -9 of a machine that writes: the image is in order but for leaks, and has what was synced."""
    raw, img = os.path.join(b.tmp, "raw"), os.path.join(b.tmp, "img.qcow2")
    with open(raw, "wb") as f:
        f.truncate(96 * MIB)
    subprocess.run([tool("mkfs.ext4"), "-q", raw], check=True)
    gazda(b, "convert", raw, img)
    with b.boot("--disk", img, flavour="cloud-amd64") as m:
        m.shell()
        want = write_file(m)
        m.ok("mount -t ext4 /dev/vda /mnt")
        m.send("while :; do dd if=/dev/urandom of=/mnt/x bs=64k count=100 conv=fsync; rm /mnt/x; fstrim /mnt; done\n")
        m.pump(4)
        m.proc.kill()
        m.proc.wait()
    r = subprocess.run([b.gazda, "image", "check", img], stdout=subprocess.PIPE, text=True)
    if r.returncode not in (0, 3):
        raise Fail("after the kill: %s" % r.stdout)
    with b.boot("--disk", img, flavour="cloud-amd64") as m:
        m.shell()
        m.ok("mkdir -p /mnt && mount -t ext4 /dev/vda /mnt")
        if m.ok("sha256sum /mnt/f").split()[0] != want:
            raise Fail("a synced file is lost")
        m.ok("umount /mnt")
        m.poweroff()
