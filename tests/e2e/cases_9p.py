# SPDX-License-Identifier: MIT
"""Shared directories under the stock kernel's v9fs: POSIX, read-only, large, as an ordinary user, as the root."""
import os
import shutil
import subprocess

from machine import Fail, Skip
from registry import case

MOUNT = "mkdir -p %s && mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,cache=%s %s %s"
NOBODY = 65534


def mount(m, tag, where, cache="none"):
    m.ok("modprobe 9pnet_virtio")
    m.ok(MOUNT % (where, cache, tag, where))


def folder(b, name):
    path = os.path.join(b.tmp, name)
    os.mkdir(path)
    return path


def tools(b):
    """A directory with the test program, for the guest to mount."""
    path = folder(b, "bin")
    here = os.path.join(b.top, "tests", "e2e", "guest")
    src = [os.path.join(here, f) for f in ("posixfs.c", "posixfs_data.c", "posixfs_names.c")]
    r = subprocess.run(["gcc", "-std=gnu17", "-D_GNU_SOURCE", "-O1", "-static", "-Wall", "-Wextra", "-Werror", "-o",
                        os.path.join(path, "posixfs")] + src, stderr=subprocess.PIPE, text=True, check=False)
    if r.returncode != 0:
        raise Fail("gcc: %s" % r.stderr[-400:])
    return path


def posixfs(m, where, *words):
    status, out = m.run("mkdir %s/t && /bin9/posixfs %s/t %s; echo status $?; rm -rf %s/t" % (
        where, where, " ".join(words), where), 300)
    if status != 0 or "status 0" not in out:
        raise Fail(out[-1500:])
    n = int(out.split("posixfs: ")[-1].split()[0])
    if n < 500:
        raise Fail("only %d checks" % n)


@case("9p:posix")
def posix(b):
    """Some 580 questions in each cache mode, a read-only share, a directory of many entries, and a driver that goes."""
    entries = 4000
    share, ro = folder(b, "share"), tools(b)
    many = os.path.join(ro, "many")
    os.mkdir(many)
    for i in range(entries):
        os.close(os.open(os.path.join(many, "entry-%d" % i), os.O_CREAT | os.O_WRONLY))
    os.symlink("/etc/passwd", os.path.join(ro, "outside"))
    owners = ["owners"] if os.geteuid() == 0 else []
    how = "" if owners else ",map=root"
    with b.boot("--share", ro + ":bin,ro" + how, "--share", share + ":work" + how, "--cpus", "2") as m:
        m.shell()
        mount(m, "bin", "/bin9")
        mount(m, "work", "/none")
        posixfs(m, "/none", *owners)
        m.ok("umount /none")
        mount(m, "work", "/mmap", "mmap")
        posixfs(m, "/mmap", "mmap", *owners)
        m.ok("echo from the guest >/mmap/file && cat /mmap/file >/dev/null")
        out = m.ok("ls /bin9/many | sort -u | grep -c entry-; ls /bin9/many/entry-17; find /bin9/many | wc -l", 120)
        if out.split() != [str(entries), "/bin9/many/entry-17", str(entries + 1)]:
            raise Fail("a directory of %d entries: %r" % (entries, out))
        for command in ("touch /bin9/new", "rm /bin9/posixfs", "mkdir /bin9/d", "mv /bin9/many /bin9/m",
                        "chmod 777 /bin9/many", "echo x >>/bin9/posixfs", "ln -s x /bin9/l"):
            status, out = m.run(command)
            if status == 0 or "Read-only file system" not in out:
                raise Fail("on a read-only share: %s: %r" % (command, out))
        if "root:" not in m.ok("cat /bin9/outside"):  # the guest's own file
            raise Fail("a symbolic link was not followed in the guest")
        m.ok("umount /mmap && dev=$(basename $(dirname $(grep -l work /sys/bus/virtio/devices/*/mount_tag))) && "
             "cd /sys/bus/virtio/drivers/9pnet_virtio && echo $dev >unbind && echo $dev >bind; cd /")
        mount(m, "work", "/again", "loose")
        if "from the guest" not in m.ok("cat /again/file"):
            raise Fail("the share does not come back")
        m.poweroff()
    if sorted(os.listdir(ro)) != ["many", "outside", "posixfs"] or os.listdir(share) != ["file"]:
        raise Fail("left on the host: %s, %s" % (os.listdir(ro), os.listdir(share)))


@case("9p:large", nightly=True, seconds=1800)
def large(b):
    """100,000 entries: listed, looked at, and removed by the guest."""
    share, entries = folder(b, "share"), 100000
    for i in range(entries):
        os.close(os.open(os.path.join(share, "entry-%d" % i), os.O_CREAT | os.O_WRONLY))
    with b.boot("--share", share + ":work") as m:
        m.shell()
        mount(m, "work", "/work")
        out = m.ok("ls /work | sort -u | wc -l; ls -l /work | wc -l", 600)
        if out.split() != [str(entries), str(entries + 1)]:
            raise Fail("a directory of %d entries: %r" % (entries, out))
        m.ok("cd /work && find . -type f -delete", 900)
        m.poweroff()
    if os.listdir(share):
        raise Fail("%d entries were not removed" % len(os.listdir(share)))


@case("9p:user")
def user(b):
    """gazda without privileges; the guest's root owns what its user owns, and archives unpack."""
    share, prefix = folder(b, "share"), []
    binaries = tools(b)
    if os.geteuid() == 0:
        setpriv = shutil.which("setpriv")
        if not setpriv:
            raise Skip("setpriv is not installed")
        prefix = [setpriv, "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--"]
        os.chmod(b.tmp, 0o755)
        os.chown(share, NOBODY, NOBODY)
        r = subprocess.run(prefix + ["test", "-r", b.kernel("amd64", "bz")[1], "-a", "-x", b.gazda], check=False)
        if r.returncode != 0:
            raise Skip("another user cannot read the kernel or run gazda here")
    with b.boot("--share", binaries + ":bin,ro", "--share", share + ":work,map=root", "--cpus", "2",
                prefix=prefix) as m:
        m.shell()
        mount(m, "bin", "/bin9")
        mount(m, "work", "/work", "loose")
        posixfs(m, "/work", "mmap")
        m.ok("cd /work && mkdir a && echo x >a/f && chown 1:2 a/f && chmod 4755 a/f && ln a/f a/g && tar -cf /tmp/a.tar a "
             "&& rm -r a && tar -xf /tmp/a.tar && [ -u a/f ] && [ a/f -ef a/g ]")
        out = m.ok("stat -c '%u %g' /work/a/f")
        if out.split() != ["0", "0"]:
            raise Fail("the owner is %r" % out)
        status, _ = m.run("mknod /work/null c 1 3")
        if status == 0:
            raise Fail("a device was made")
        m.poweroff()
    if os.stat(os.path.join(share, "a", "f")).st_uid != (NOBODY if prefix else os.geteuid()):
        raise Fail("the file belongs to somebody else")


def from_cpio(path, name):
    """A file of an archive that tools/mkcpio wrote."""
    with open(path, "rb") as f:
        data = f.read()
    at = 0
    while data[at:at + 6] == b"070701":
        size, length = (int(data[at + 6 + 8 * i:at + 14 + 8 * i], 16) for i in (6, 11))
        body = (at + 110 + length + 3) & ~3
        if data[at + 110:at + 110 + length - 1] == name.encode():
            return data[body:body + size]
        at = (body + size + 3) & ~3
    raise Fail("%s has no %s" % (path, name))


@case("9p:root")
def root(b):
    """A directory as the root file system, written and read-only under a tmpfs."""
    top = folder(b, "root")
    for d in ("bin", "proc", "dev", "tmp"):
        os.mkdir(os.path.join(top, d))
    _, initrd, _ = b.kernel("amd64", "bz")
    busybox = os.path.join(top, "bin", "busybox")
    with open(busybox, "wb") as f:
        f.write(from_cpio(initrd, "bin/busybox"))
    os.chmod(busybox, 0o755)
    with open(os.path.join(top, "bin", "init"), "w", encoding="ascii") as f:
        f.write("#!/bin/busybox sh\nset -e\nexport PATH=/bin\nbusybox --install -s /bin\n[ $$ = 1 ]\n"
                "mkdir -p d\necho guest >d/file\nmv d e\nls -l /proc/self >/dev/null\n"
                "grep -c ' / ' /proc/mounts\necho root is $(grep ' / ' /proc/mounts | tail -n 1)\npoweroff -f\n")
    os.chmod(os.path.join(top, "bin", "init"), 0o755)
    for words, kind in ((",ro", "overlay"), ("", "9p")):
        with b.boot("--root", top + words) as m:
            m.expect("root is \\w+ / " + kind, 120)
            m.ends(0, 60)
        if os.path.exists(os.path.join(top, "e", "file")) != (kind == "9p"):
            raise Fail("what was written with --root DIR%s" % words)
    with b.boot("--root", os.path.join(top, "none")) as m:
        m.ends(1, 30)
        if "cannot share" not in m.stderr():
            raise Fail("no clear answer: %r" % m.stderr())


@case("9p:build", nightly=True, seconds=1200)
def build(b):
    """The host's own system, read-only, as the guest's: git clones a repository in a shared directory, gcc compiles it."""
    for tool in ("git", "gcc"):
        if not os.path.exists("/usr/bin/" + tool):
            raise Skip("%s is not installed" % tool)
    share = folder(b, "share")
    source = folder(b, "source")
    with open(os.path.join(source, "hello.c"), "w", encoding="ascii") as f:
        f.write("#include <stdio.h>\nint main(void)\n{\n    puts(\"compiled\" \" in the guest\");\n}\n")
    git = ["git", "-C", source, "-c", "user.name=t", "-c", "user.email=t@t"]
    for args in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(git + args, check=True)
    subprocess.run(["git", "clone", "-q", "--bare", source, os.path.join(share, "origin.git")], check=True)
    with b.boot("--share", "/:host,ro", "--share", share + ":work", "--cpus", "2", "--mem", "1G") as m:
        m.shell()
        mount(m, "host", "/host", "loose")
        m.ok(MOUNT.replace("mkdir -p %s && ", "") % ("mmap", "work", "/host/mnt"))
        m.ok("mount -o bind /dev /host/dev && mount -t proc proc /host/proc && mount -t tmpfs tmpfs /host/tmp")
        m.ok("chroot /host /bin/sh -c 'export HOME=/tmp PATH=/usr/bin:/bin; cd /mnt && "
             "git config --global safe.directory \"*\" && git clone -q origin.git clone && cd clone && "
             "for i in 1 2 3; do echo $i >f$i; git add f$i; "
             "git -c user.name=t -c user.email=t@t commit -qm $i; done && git gc -q && git fsck && git push -q'", 600)
        out = m.ok("chroot /host /bin/sh -c 'cd /mnt/clone && gcc -O2 -pipe -o hello hello.c && ./hello'", 600)
        if "compiled in the guest" not in out:
            raise Fail(out[-300:])
        m.poweroff()
    out = subprocess.run([os.path.join(share, "clone", "hello")], stdout=subprocess.PIPE, check=True).stdout
    if out != b"compiled in the guest\n":
        raise Fail("the host runs another program")
    log = subprocess.run(["git", "--git-dir", os.path.join(share, "origin.git"), "log", "--oneline", "--all"],
                         stdout=subprocess.PIPE, check=True).stdout
    if len(log.splitlines()) != 4:
        raise Fail("the host's git sees %d commits" % len(log.splitlines()))
