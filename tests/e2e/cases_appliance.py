# SPDX-License-Identifier: MIT
"""gazda appliance: built, run, imported, exported, taken from other monitors; damaged ones."""
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import tarfile
import time

from machine import Fail, Machine, Skip
from registry import case

OVF = """<?xml version="1.0"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
 <References><File ovf:href="disk one.vmdk" ovf:id="file1"/></References>
 <DiskSection><Disk ovf:capacity="64" ovf:capacityAllocationUnits="byte * 2^20" ovf:diskId="d1" ovf:fileRef="file1"/>
 </DiskSection>
 <VirtualSystem ovf:id="from-elsewhere"><VirtualHardwareSection>
  <Item><rasd:ResourceType>3</rasd:ResourceType><rasd:VirtualQuantity>2</rasd:VirtualQuantity></Item>
  <Item><rasd:AllocationUnits>byte * 2^20</rasd:AllocationUnits><rasd:ResourceType>4</rasd:ResourceType>
   <rasd:VirtualQuantity>256</rasd:VirtualQuantity></Item>
  <Item><rasd:HostResource>ovf:/disk/d1</rasd:HostResource><rasd:ResourceType>17</rasd:ResourceType></Item>
 </VirtualHardwareSection></VirtualSystem>
</Envelope>
"""


class Store:
    """A store of the test's own."""

    def __init__(self, b):
        self.b = b
        self.env = dict(os.environ, GAZDA_APPLIANCES=os.path.join(b.tmp, "store"))

    def call(self, *args, status=0, says=""):
        r = subprocess.run([self.b.gazda, "appliance"] + list(args), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           stdin=subprocess.DEVNULL, text=True, check=False, env=self.env, timeout=300 * self.b.scale)
        if r.returncode != status or says not in r.stderr + r.stdout:
            raise Fail("appliance %s: status %d, not %d with %r: %s%s" % (
                " ".join(args), r.returncode, status, says, r.stdout[-300:], r.stderr[-600:]))
        return r.stdout

    def run(self, *args):
        return Machine([self.b.gazda, "appliance", "run"] + list(args), self.b.log, self.b.scale, env=self.env)

    def left(self):
        """What a failure left behind in the store."""
        path = self.env["GAZDA_APPLIANCES"]
        return sorted(os.listdir(path)) if os.path.isdir(path) else []


def build(s, out, *args):
    r = subprocess.run([s.b.gazda, "appliance", "build", "-o", out] + list(args), stdout=subprocess.PIPE, text=True,
                       stderr=subprocess.STDOUT, check=False, env=s.env, timeout=600)
    if r.returncode and ("cannot be had" in r.stdout or "could not be built" in r.stdout or "is not installed" in r.stdout):
        raise Skip("an appliance cannot be built: %s" % r.stdout.strip().split("\n")[-2][-200:])
    if r.returncode:
        raise Fail("build: %s" % r.stdout[-600:])


@case("appliance:life")
def life(b):
    """Built from packages, run; imported, written to, exported, and what was written is in the export."""
    s = Store(b)
    out, again = os.path.join(b.tmp, "lua.gazda"), os.path.join(b.tmp, "again.gazda")
    build(s, out, "--packages", "lua5.4", "--name", "luabox", "--cpus", "2", "--mem", "256M")
    m = json.loads(s.call("info", out))
    if (m["name"], m["cpus"], m["mem"]) != ("luabox", 2, 256 << 20):
        raise Fail("info: %r" % m)
    with s.run(out) as vm:
        vm.expect(r"luabox:\S*# ", 300)
        if "42" not in vm.ok("lua5.4 -e 'print(6*7)'") or vm.ok("grep -c ^processor /proc/cpuinfo").strip() != "2":
            raise Fail("the machine is not what was built")
        vm.poweroff()
    if s.left():
        raise Fail("run of a file leaves %s" % s.left())
    s.call("import", out)
    s.call("import", out, status=1, says="already")
    with s.run("luabox", "--cpus", "1") as vm:
        vm.expect(r"luabox:\S*# ", 300)
        vm.ok("echo kept >/root/kept")
        s.call("export", "luabox", "-o", again, status=1, says="in use")
        s.call("delete", "luabox", status=1, says="in use")
        vm.poweroff()
    s.call("export", "luabox", "-o", again)
    s.call("delete", "luabox")
    s.call("import", again, "--name", "second")
    if "second" not in s.call("list") or s.left() != ["second"]:
        raise Fail("list: %s" % s.left())
    with s.run("second") as vm:
        vm.expect(r"luabox:\S*# ", 300)
        if "kept" not in vm.ok("cat /root/kept"):
            raise Fail("what was written is not in the export")
        vm.poweroff()


@case("appliance:run-command")
def run_command(b):
    """--run: the command runs in place of a shell and ends the machine; ^C in the middle of a build leaves nothing."""
    s = Store(b)
    out = os.path.join(b.tmp, "f.gazda")
    build(s, out, "--packages", "libzstd1", "--run", "echo the command has run", "--port", "45123:80")
    if json.loads(s.call("info", out))["networks"][0]["ports"][0]["host"] != 45123:
        raise Fail("the port is not in the manifest")
    with s.run(out, "--net", "none") as vm:
        vm.expect("the command has run", 300)
        vm.ends(0, 120)
    os.unlink(out)
    p = subprocess.Popen([b.gazda, "appliance", "build", "--packages", "libzstd1", "-o", out], env=s.env,
                         stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    p.send_signal(signal.SIGINT)
    if p.wait(120) != 128 + signal.SIGINT:
        raise Fail("an interrupted build ends with status %d" % p.returncode)
    left = [n for n in os.listdir(b.tmp) if n != "store"]
    if left or s.left():
        raise Fail("an interrupted build leaves %s" % (left + s.left()))


def pack(path, manifest, files):
    """An archive by another hand."""
    with tarfile.open(path, "w") as t:
        for name, data in [("manifest.json", json.dumps(manifest).encode())] + files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))


@case("appliance:hostile", seconds=120)
def hostile(b):
    """What must not be accepted, through the program: nothing lands outside the store, nothing stays in it."""
    if not shutil.which("qemu-img"):
        raise Skip("qemu-img is not installed")
    s = Store(b)
    path = os.path.join(b.tmp, "x.gazda")
    disk = os.path.join(b.tmp, "d.qcow2")

    def manifest(data):
        return {"format": "gazda-appliance", "version": 1, "name": "x", "cpus": 1, "mem": 64 << 20,
                "disks": [{"file": "d"}],
                "files": [{"name": "d", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}]}

    def qcow(*args):
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2"] + list(args), check=True)
        with open(disk, "rb") as f:
            return f.read()

    good = qcow(disk, "1M")
    pack(path, manifest(good), [("d", good)])
    s.call("import", path)
    s.call("delete", "x")
    for files, says in [([("d", good), ("../escape", b"")], "name"), ([("/tmp/escape", good)], "name"),
                        ([("d", good), ("d", good)], "twice"), ([], "missing"), ([("d", good[:-1] + b"x")], "SHA-256"),
                        ([("d", good + b"x")], "bytes"), ([("other", good)], "not in the manifest")]:
        pack(path, manifest(good), files)
        s.call("import", path, status=1, says=says)
    backed = qcow("-F", "raw", "-b", "/etc/passwd", disk, "1M")
    pack(path, manifest(backed), [("d", backed)])
    s.call("import", path, status=1, says="backing file")
    pack(path, manifest(good), [("d", good)])
    with open(path, "r+b") as f:
        f.truncate(5000)
    s.call("import", path, status=1)
    s.call("run", path, status=1)
    if s.left() or os.path.exists(os.path.join(b.tmp, "escape")):
        raise Fail("left behind: %s" % s.left())


@case("appliance:ova")
def ova(b):
    """An OVA with a stream-optimised VMDK becomes an appliance; its disk is what it was."""
    for tool in ("qemu-img", "mke2fs"):
        if not shutil.which(tool, path=os.environ.get("PATH", "") + ":/sbin:/usr/sbin"):
            raise Skip("%s is not installed" % tool)
    kernel, initrd, _ = b.kernel("amd64", "bz")
    s = Store(b)
    tree = os.path.join(b.tmp, "tree")
    os.makedirs(tree)
    with open(os.path.join(tree, "note"), "w", encoding="ascii") as f:
        f.write("came with the VMDK\n")
    raw, vmdk = os.path.join(b.tmp, "raw"), os.path.join(b.tmp, "disk one.vmdk")
    subprocess.run(["/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, raw, "64M"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk], check=True)
    ovf = b.file("m.ovf", OVF.encode())
    with open(vmdk, "rb") as f:
        sums = "SHA256(m.ovf)= %s\nSHA256(disk one.vmdk)= %s\n" % (
            hashlib.sha256(OVF.encode()).hexdigest(), hashlib.sha256(f.read()).hexdigest())
    mf = b.file("m.mf", sums.encode())
    path = os.path.join(b.tmp, "m.ova")
    for text in (sums.replace("= ", "= 0"), sums):
        with open(mf, "w", encoding="ascii") as f:
            f.write(text)
        with tarfile.open(path, "w") as t:
            for file in (ovf, mf, vmdk):
                t.add(file, os.path.basename(file))
        if text != sums:
            s.call("import", path, status=1, says="SHA256")
    s.call("import", path, "--kernel", kernel, "--initrd", initrd, "--append", "console=ttyS0 quiet root=none")
    m = json.loads(s.call("info", "from-elsewhere"))
    if (m["cpus"], m["mem"], len(m["disks"])) != (2, 256 << 20, 1):
        raise Fail("the machine is not the OVF's: %r" % m)
    with s.run("from-elsewhere") as vm:
        vm.shell()
        if "came with" not in vm.ok("mkdir -p /mnt; mount -t ext4 /dev/vda /mnt && cat /mnt/note"):
            raise Fail("the disk is not the VMDK's")
        vm.poweroff()
    s.call("import", ovf, "--name", "beside")
