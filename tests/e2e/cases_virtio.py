# SPDX-License-Identifier: MIT
"""virtio devices under load, under a stock kernel's drivers: file systems, discard, resets, both ways of a console."""
import os
import shutil
import subprocess

from machine import Fail, Skip, unix_connect
from registry import case

MIB = 1 << 20


def image(b, size):
    path = os.path.join(b.tmp, "disk")
    with open(path, "wb") as f:
        f.truncate(size)
    return path


def tool(name):
    path = shutil.which(name, path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin")
    if not path:
        raise Skip("%s is not installed" % name)
    return path


@case("virtio:ext4")
def ext4(b):
    """A journalling file system made by the host, written by the guest, judged by the host."""
    path = image(b, 96 * MIB)
    subprocess.run([tool("mkfs.ext4"), "-q", path], check=True)
    with b.boot("--disk", path, "--cpus", "2") as m:
        m.shell()
        bits = m.ok("cat /sys/bus/virtio/devices/virtio0/features").split()[-1]
        if bits[34] != "1":
            raise Fail("the kernel did not take packed rings: %s" % bits)
        m.ok("mkdir -p /mnt && mount -t ext4 /dev/vda /mnt")
        m.ok("for i in 1 2 3 4; do dd if=/dev/urandom of=/mnt/f$i bs=64k count=48 2>/dev/null & done; wait", 120)
        m.ok("mkdir /mnt/d; for i in $(seq 200); do echo $i >/mnt/d/$i; done; rm /mnt/d/*7 /mnt/f3; sync", 120)
        m.ok("echo 3 >/proc/sys/vm/drop_caches")
        want = m.ok("sha256sum /mnt/f4").split()[0]
        m.ok("umount /mnt")
        m.poweroff()
    out = subprocess.run([tool("e2fsck"), "-fn", path], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if out.returncode != 0:
        raise Fail("e2fsck: %s" % out.stdout[-600:])
    dump = os.path.join(b.tmp, "f4")
    subprocess.run([tool("debugfs"), "-R", "dump /f4 %s" % dump, path], stderr=subprocess.DEVNULL, check=True)
    import hashlib
    with open(dump, "rb") as f:
        got = hashlib.sha256(f.read()).hexdigest()
    if got != want:
        raise Fail("the host reads another file than the guest wrote")


@case("virtio:discard")
def discard(b):
    """Discarded and zeroed blocks leave the host's file; what lies beside them stays."""
    path = image(b, 32 * MIB)
    with b.boot("--disk", path, flavour="cloud-amd64") as m:
        m.shell()
        m.ok("tr '\\0' x </dev/zero | dd of=/dev/vda bs=64k count=512 iflag=fullblock conv=fsync 2>/dev/null", 120)
        full = os.stat(path).st_blocks
        if full < 32 * MIB // 512:
            raise Fail("32 MiB written and flushed occupy %d blocks" % full)
        m.ok("blkdiscard -o %d -l %d /dev/vda" % (MIB, 24 * MIB))
        freed = full - os.stat(path).st_blocks
        if freed != 24 * MIB // 512:
            raise Fail("24 MiB discarded, %d blocks freed" % freed)
        m.poweroff()
    with open(path, "rb") as f:
        data = f.read()
    if data != b"x" * MIB + bytes(24 * MIB) + b"x" * (7 * MIB):
        raise Fail("the discard hit something else")


@case("virtio:unbind")
def unbind(b):
    """The driver lets go of the disk under load (a device reset with requests in flight) and takes it again."""
    path = image(b, 32 * MIB)
    with b.boot("--disk", path, "--cpus", "2") as m:
        m.shell()
        m.ok("echo keep | dd of=/dev/vda bs=512 seek=4000 conv=sync,fsync 2>/dev/null")
        for _ in range(3):
            m.ok("dev=$(basename $(readlink -f /sys/block/vda/device)); "
                 "for i in 1 2 3; do dd if=/dev/vda of=/dev/null bs=256k 2>/dev/null & done; "
                 "echo $dev >/sys/bus/virtio/drivers/virtio_blk/unbind; wait; "
                 "echo 3 >/proc/sys/vm/drop_caches; "
                 "echo $dev >/sys/bus/virtio/drivers/virtio_blk/bind", 120)
            out = m.ok("sleep 1; ls /dev/vd?; dd if=$(ls /dev/vd?) bs=512 skip=4000 count=1 2>/dev/null | head -c 4")
            if "keep" not in out:
                raise Fail("the disk does not come back: %r" % out)
        m.poweroff()


@case("virtio:reboot")
def reboot(b):
    """A reset of the machine in the middle of disk I/O."""
    path = image(b, 32 * MIB)
    with b.boot("--disk", path, "--cpus", "2") as m:
        for _ in range(2):
            m.shell()
            m.ok("echo keep | dd of=/dev/vda bs=512 seek=4000 conv=sync,fsync 2>/dev/null")
            m.send("for i in 1 2 3; do dd if=/dev/vda of=/dev/null bs=64k 2>/dev/null & done; reboot -f\n")
            m.expect("Linux version", 120)
        m.shell()
        if "keep" not in m.ok("dd if=/dev/vda bs=512 skip=4000 count=1 2>/dev/null | head -c 4"):
            raise Fail("the disk is not what it was")
        m.poweroff()


@case("virtio:limits")
def limits(b):
    """Rate limits of a disk take at least the time that they must; the random source can be left out."""
    path = image(b, 8 * MIB)
    with b.boot("--disk", path + ",bps=1M:2M:500,iops=1000", "--rng", "off", flavour="cloud-amd64") as m:
        m.shell()
        # 2 MiB of burst and a bucket of 1 MiB at once, 3 MiB at 2 MiB a second.
        out = m.ok("a=$(cut -d' ' -f1 /proc/uptime); dd if=/dev/vda of=/dev/null bs=64k count=96 iflag=direct 2>/dev/null; "
                   "b=$(cut -d' ' -f1 /proc/uptime); echo took $a $b", 120)
        begin, end = out.split("took")[1].split()[:2]
        if float(end) - float(begin) < 1.4:
            raise Fail("6 MiB through a limit of 2 MiB/s with a burst took %.2f s" % (float(end) - float(begin)))
        if "virtio_rng" in m.ok("cat /sys/class/misc/hw_random/rng_available 2>/dev/null; echo"):
            raise Fail("there is a random source in spite of --rng off")
        m.poweroff()
    for option in ("bps=", "bps=1M:2:3:4", "iops=x", "iops=0"):
        with b.boot("--disk", path + "," + option, flavour="cloud-amd64") as m:
            m.ends(1, 30)
            if option.split("=")[0] not in m.stderr():
                raise Fail("no clear answer to %s: %r" % (option, m.stderr()))


@case("virtio:io")
def io_ways(b):
    """Three disks that the host reads and writes in different ways, at once: what is read and written is the same."""
    import hashlib
    data = os.urandom(6 * MIB)
    disks = [b.file("disk%d" % i, data) for i in range(3)]
    ways = ["auto", "threads", "uring"]
    probe = b.boot("--disk", disks[2] + ",io=uring", flavour="cloud-amd64")
    with probe as m:
        try:
            m.expect("Linux version", 60)
        except Fail:
            if "io=threads does without" not in m.stderr():
                raise
            ways[2] = "threads"
            print("# no io_uring on this host", flush=True)
    args = [a for d, w in zip(disks, ways) for a in ("--disk", "%s,io=%s" % (d, w))]
    with b.boot(*args, "--cpus", "2", flavour="cloud-amd64") as m:
        m.shell()
        out = m.ok("for d in a b c; do dd if=/dev/vd$d bs=256k iflag=direct 2>/dev/null | sha256sum >/tmp/$d & done; wait; "
                   "cat /tmp/a /tmp/b /tmp/c", 120)
        if out.count(hashlib.sha256(data).hexdigest()) != 3:
            raise Fail("the guest reads something else: %r" % out)
        m.ok("for d in a b c; do dd if=/dev/vda of=/tmp/$d bs=4k skip=100 count=500 2>/dev/null; "
             "{ dd if=/tmp/$d of=/dev/vd$d bs=4k seek=1000 oflag=direct; dd if=/tmp/$d of=/dev/vd$d bs=61k seek=1; } "
             "2>/dev/null & done; wait; sync", 120)
        m.poweroff()
    part = data[100 * 4096:600 * 4096]
    want = bytearray(data)
    want[1000 * 4096:1000 * 4096 + len(part)] = part
    want[61 * 1024:61 * 1024 + len(part)] = part
    for path, way in zip(disks, ways):
        with open(path, "rb") as f:
            if f.read() != bytes(want):
                raise Fail("io=%s wrote something else" % way)


@case("virtio:console-both-ways")
def console_both_ways(b):
    path = os.path.join(b.tmp, "hvc.sock")
    with b.boot("--console", "unix:" + path, flavour="cloud-amd64") as m:
        s = unix_connect(path, 30)
        s.settimeout(60 * b.scale)
        m.shell()
        # One open file for both: the last close of an hvc puts its settings back.
        m.ok("(stty raw -echo; echo raw >/tmp/raw; head -c 20000 | sha256sum >/tmp/sum) </dev/hvc0 & "
             "while ! [ -e /tmp/raw ]; do sleep 0.1; done")
        data = bytes((i * 7 + i // 256) % 251 for i in range(20000))
        s.sendall(data)
        m.ok("wait", 120)
        import hashlib
        if hashlib.sha256(data).hexdigest() not in m.ok("cat /tmp/sum"):
            raise Fail("what came in over hvc0 differs")
        # Out, to a reader that is in no hurry: nothing is lost.
        m.send("(stty raw; yes 0123456789abcde | head -c 200000) <>/dev/hvc0 >&0; echo sent\n")
        got = b""
        while len(got) < 200000:
            part = s.recv(4096)
            if not part:
                raise Fail("the socket closed after %d bytes" % len(got))
            got += part
        if got != b"0123456789abcde\n" * 12500:
            raise Fail("what came out over hvc0 differs")
        m.poweroff()
        s.close()


@case("virtio:images")
def images(b):
    """Images that must not be used: in use by another machine, of another format."""
    path = image(b, MIB)
    with b.boot("--disk", path, flavour="cloud-amd64") as m:
        m.expect("Linux version", 60)
        with b.boot("--disk", path + ",ro", flavour="cloud-amd64") as second:
            second.ends(1, 30)
            if "in use" not in second.stderr():
                raise Fail("no clear answer: %r" % second.stderr())
    subprocess.run([tool("qemu-img"), "create", "-q", "-f", "vmdk", path, "1M"], check=True)
    with b.boot("--disk", path, flavour="cloud-amd64") as m:
        m.ends(1, 30)
        if "VMDK" not in m.stderr() or "convert" not in m.stderr():
            raise Fail("no clear answer: %r" % m.stderr())
