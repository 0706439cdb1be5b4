# SPDX-License-Identifier: MIT
"""A corpus of bad input: made from small valid images by truncation, by setting single fields, and by random damage
with a fixed seed. Each entry is (name, arguments, must_refuse); images that damage left loadable may run.
"""
import gzip
import lzma
import os
import random
import struct

SEED = 20240607


def elf64(code=b"\xf4\xeb\xfd", paddr=0x1000000, note=None):
    """A minimal vmlinux: one PT_LOAD, optionally a PVH note (XEN_ELFNOTE_PHYS32_ENTRY)."""
    notes = b""
    if note is not None:
        notes = struct.pack("<III4sI", 4, 4, 18, b"Xen\0", note)
    phnum = 2 if notes else 1
    off = 64 + 56 * phnum
    hdr = b"\x7fELF\2\1\1" + b"\0" * 9
    hdr += struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, paddr, 64, 0, 0, 64, 56, phnum, 0, 0, 0)
    ph = struct.pack("<IIQQQQQQ", 1, 7, off + len(notes), paddr, paddr, len(code), 4096, 4096)
    if notes:
        ph += struct.pack("<IIQQQQQQ", 4, 4, off, 0, 0, len(notes), len(notes), 4)
    return hdr + ph + notes + code


def bzimage(payload, packed, setup_sects=4):
    """A bzImage of boot protocol 2.15 with this compressed payload."""
    setup = bytearray(512 * (setup_sects + 1))
    body = packed + struct.pack("<I", len(payload))
    setup[0x1F1] = setup_sects
    struct.pack_into("<I", setup, 0x1F4, (len(body) + 15) // 16)
    struct.pack_into("<H", setup, 0x1FE, 0xAA55)
    setup[0x200:0x202] = b"\xeb\x6a"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    setup[0x211] = 1
    struct.pack_into("<I", setup, 0x214, 0x100000)
    struct.pack_into("<I", setup, 0x22C, 0x7FFFFFFF)
    struct.pack_into("<I", setup, 0x230, 0x200000)
    setup[0x234] = 1
    struct.pack_into("<H", setup, 0x236, 1)
    struct.pack_into("<I", setup, 0x238, 2047)
    struct.pack_into("<II", setup, 0x248, 0, len(body))
    struct.pack_into("<QI", setup, 0x258, 0x1000000, 0x100000)
    return bytes(setup) + body + b"\0" * 64


def multiboot(flags=0, fields=None):
    head = struct.pack("<III", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF)
    if fields:
        head += struct.pack("<5I", *fields)
    code = b"\xf4\xeb\xfd" + b"\0" * 64
    hdr = b"\x7fELF\1\1\1" + b"\0" * 9
    hdr += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x100000 + len(head), 52, 0, 0, 52, 32, 1, 0, 0, 0)
    ph = struct.pack("<8I", 1, 84, 0x100000, 0x100000, len(head + code), len(head + code), 7, 4)
    return hdr + ph + head + code


class Corpus:
    def __init__(self, tmp):
        self.tmp, self.entries, self.count = tmp, [], 0
        self.good = self.file(elf64())

    def file(self, data):
        self.count += 1
        path = os.path.join(self.tmp, "in%03d" % self.count)
        with open(path, "wb") as f:
            f.write(data)
        return path

    def args(self, name, *args, refuse=True):
        self.entries.append((name, list(args), refuse))

    def kernel(self, name, data, refuse=True, extra=()):
        self.args(name, "--kernel", self.file(data), "--mem", "64M", *extra, refuse=refuse)


def options(c):
    """Command lines that are wrong in themselves."""
    k = ["--kernel", c.good]
    for v in ("0", "-1", "33", "1000000", "99999999999999999999", "abc", "", "1.5", "0x2", " 2"):
        c.args("cpus=%r" % v, *k, "--cpus", v)
    for v in ("0", "-5", "1", "4095", "12Q", "M", "", "999999999T", "18446744073709551615", "1e9", "16EiB", "512MM", "1K"):
        c.args("mem=%r" % v, *k, "--mem", v)
    for v in ("", "nope", "KVM", "interp,x", "\x1b[31m"):
        c.args("engine=%r" % v, *k, "--engine", v)
    for v in ("", "nope", "file:", "unix:", "file:/nonexistent/x", "unix:/nonexistent/x", "unix:" + "x" * 200, "tcp:1",
              "file:" + c.tmp):
        c.args("serial=%r" % v[:30], *k, "--serial", v)
    for v in ("", "/nonexistent", c.tmp, ",ro", "/nonexistent,ro", "/dev/null,rw,x"):
        c.args("disk=%r" % v, *k, "--disk", v)
    for v in ("", "/nonexistent", c.tmp):
        c.args("kernel=%r" % v, "--kernel", v)
        c.args("initrd=%r" % v, *k, "--initrd", v)
    for v in ("", ":0x", ":99999", ":-1", ":", "unix:", "unix:/nonexistent/x", "x:y:z"):
        c.args("gdb=%r" % v, *k, "--gdb", v)
    for v in ("", "flat", "flat:", "flat:real", "flat:real@", "flat:real@zz", "flat:prot@0xffffffffffffffff",
              "flat:long@0x1,entry=", "flat:odd@0x1000", "flat:long@0x1000,entry=0xfffffffffffffffff", "PVH"):
        c.args("boot=%r" % v, *k, "--boot", v)
    c.args("no such option", *k, "--nope")
    c.args("option without value", *k, "--mem")
    c.args("stray argument", *k, "stray")
    c.args("append too long", *k, "--append", "x" * 5000)
    c.args("append enormous", *k, "--append", "y" * 120000)
    c.args("stats to nowhere", *k, "--stats", "/nonexistent/x")
    c.args("initrds without number", *(k + ["--initrd", c.good] * 80))
    c.args("disks without number", *(k + ["--disk", c.good] * 40))
    huge = os.path.join(c.tmp, "huge")
    with open(huge, "wb") as f:
        f.truncate(8 << 30)
    c.args("initrd larger than memory", *k, "--initrd", huge, "--mem", "64M")
    c.args("kernel of 8 GiB of zeroes", "--kernel", huge)
    fifo = os.path.join(c.tmp, "fifo")
    os.mkfifo(fifo)
    c.args("kernel that is a fifo", "--kernel", fifo)
    c.args("kernel that is a device", "--kernel", "/dev/zero")
    c.args("initrd that is a device", *k, "--initrd", "/dev/zero")


def elf_fields(c):
    good = elf64()
    for n in (0, 1, 3, 4, 15, 16, 32, 63, 64, 65, 100, 119):
        c.kernel("elf truncated to %d" % n, good[:n])

    def put(name, fmt, off, value, refuse=True, image=good):
        data = bytearray(image)
        struct.pack_into(fmt, data, off, value)
        c.kernel(name, bytes(data), refuse)

    big = (1 << 64) - 1
    put("elf: class 0", "<B", 4, 0)
    put("elf: class 1 in a 64-bit file", "<B", 4, 1)
    put("elf: big endian", "<B", 5, 2)
    put("elf: machine ARM", "<H", 18, 40)
    put("elf: type relocatable", "<H", 16, 1)
    for v in (0x10000, 1 << 40, big, big - 55, 1 << 63):
        put("elf: phoff %#x" % v, "<Q", 32, v)
    for v in (0, 1, 55, 0xFFFF):
        put("elf: phentsize %d" % v, "<H", 54, v)
    put("elf: no program headers", "<H", 56, 0)
    put("elf: phnum 65535", "<H", 56, 0xFFFF)
    put("elf: phnum 1000", "<H", 56, 1000)
    for v in (big, 1 << 63, 1 << 40, 4096):
        put("elf: p_offset %#x" % v, "<Q", 64 + 8, v)
        put("elf: p_filesz %#x" % v, "<Q", 64 + 32, v)
    for v in (big, big - 4095, 1 << 63, 1 << 52, 0xC0000000, 0xFEE00000, 0xFFFFF000, 1 << 40):
        put("elf: p_paddr %#x" % v, "<Q", 64 + 24, v)
    for v in (big, 1 << 63, 1 << 40, 1 << 32, 64 << 20, 0):
        put("elf: p_memsz %#x" % v, "<Q", 64 + 40, v)
    put("elf: no PT_LOAD", "<I", 64, 2)
    # An entry outside of what is loaded: some loaders take it, and the guest then crashes.
    put("elf: entry %#x" % big, "<Q", 24, big, refuse=False)
    pvh = elf64(note=0x1000000)
    note = 64 + 112
    for off, what in ((0, "namesz"), (4, "descsz"), (8, "type")):
        for v in (0, 0xFFFFFFFF, 0x7FFFFFFF, 5):
            put("pvh: %s %#x" % (what, v), "<I", note + off, v, refuse=False, image=pvh)
    put("pvh: note beyond the file", "<Q", 64 + 56 + 8, 1 << 40, refuse=False, image=pvh)
    put("pvh: note size", "<Q", 64 + 56 + 32, big, refuse=False, image=pvh)
    for v in (0xFFFFFFFF, 0xC0000000, 0):
        put("pvh: entry %#x" % v, "<I", note + 16, v, refuse=False, image=pvh)


def bz_fields(c):
    elf = elf64()
    packed = {"gz": gzip.compress(elf, mtime=0), "xz": lzma.compress(elf, lzma.FORMAT_XZ),
              "lzma": lzma.compress(elf, lzma.FORMAT_ALONE)}
    for kind, data in packed.items():
        good = bzimage(elf, data)
        for n in (0, 1, 0x1F1, 0x1FE, 0x202, 0x206, 0x230, 0x250, 0x260, 511, 512, 1024, 2559, 2560, 2561, 2570, 2600):
            c.kernel("%s bzImage truncated to %d" % (kind, n), good[:n], refuse=n < 2600)
        broken = bytearray(good)
        broken[2560 + len(data) // 2] ^= 0xFF
        c.kernel("%s bzImage with a broken payload" % kind, bytes(broken), refuse=False)
        c.kernel("%s bzImage whose payload is no ELF" % kind, bzimage(b"x" * 100, {
            "gz": gzip.compress(b"x" * 100), "xz": lzma.compress(b"x" * 100),
            "lzma": lzma.compress(b"x" * 100, lzma.FORMAT_ALONE)}[kind]), refuse=False)
    bomb = gzip.compress(b"\0" * (256 << 20), 9)
    c.kernel("a payload that unpacks to 256 MiB of zeroes", bzimage(elf, bomb), refuse=False)
    # gazda unpacks these, which is more than was asked for.
    c.kernel("a gzip'd kernel", gzip.compress(elf), refuse=False)
    c.kernel("an xz'd kernel", lzma.compress(elf), refuse=False)
    c.kernel("a gzip'd kernel, cut", gzip.compress(elf)[:-20])
    c.kernel("an xz'd kernel, cut", lzma.compress(elf)[:-20])
    good = bzimage(elf, packed["gz"])
    for off, fmt, name, values in (
            (0x1F1, "<B", "setup_sects", (0, 1, 63, 64, 255)),
            (0x1F4, "<I", "syssize", (0, 0xFFFFFFFF)),
            (0x1FE, "<H", "boot_flag", (0,)),
            (0x206, "<H", "version", (0, 0x1FF, 0x200, 0x204, 0x207, 0xFFFF)),
            (0x211, "<B", "loadflags", (0,)),
            (0x214, "<I", "code32_start", (0, 0xFFFFFFFF)),
            (0x22C, "<I", "initrd_addr_max", (0, 1, 0xFFFFFFFF)),
            (0x230, "<I", "kernel_alignment", (0, 3, 0xFFFFFFFF)),
            (0x238, "<I", "cmdline_size", (0, 1, 0xFFFFFFFF)),
            (0x248, "<I", "payload_offset", (1, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFF5FF)),
            (0x24C, "<I", "payload_length", (0, 1, 4, 0x7FFFFFFF, 0xFFFFFFFF)),
            (0x258, "<Q", "pref_address", (0, (1 << 64) - 1, 0xC0000000)),
            (0x260, "<I", "init_size", (0, 0xFFFFFFFF))):
        for v in values:
            data = bytearray(good)
            struct.pack_into(fmt, data, off, v)
            c.kernel("bzImage: %s %#x" % (name, v), bytes(data), refuse=False)


def multiboots(c):
    load = 0x100000
    for name, fields in (
            ("header beyond", (0xFFFFFFFF, load, 0, 0, load)), ("load above header", (load, load + 4096, 0, 0, load)),
            ("load end below", (load, load, load - 1, 0, load)), ("bss end below", (load, load, 0, load - 1, load)),
            ("bss to the sky", (load, load, 0, 0xFFFFFFFF, load)), ("load in the hole", (0xC0000000,) * 2 + (0, 0, load)),
            ("load at 0", (0, 0, 0, 0, 0))):
        c.kernel("multiboot: %s" % name, multiboot(1 << 16, fields), refuse=False, extra=("--boot", "multiboot"))
    c.kernel("multiboot: unknown required feature", multiboot(1 << 3), extra=("--boot", "multiboot"))
    c.kernel("multiboot: wanted, but no header", elf64(), extra=("--boot", "multiboot"))
    c.kernel("pvh: wanted, but no note", elf64(), extra=("--boot", "pvh"))
    c.kernel("multiboot: truncated", multiboot()[:90], extra=("--boot", "multiboot"))


def noise(c, count=60):
    """Random bytes, random bytes behind each magic, and random damage to each kind of image."""
    rnd = random.Random(SEED)
    for n in (1, 100, 4096, 100000):
        c.kernel("%d random bytes" % n, b"\x90" + rnd.randbytes(n))
    for magic in (b"\x7fELF\2\1\1", b"\x7fELF\1\1\1", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"BZh9", b"MZ"):
        c.kernel("magic %r and noise" % magic, magic + rnd.randbytes(3000))
    elf = elf64(note=0x1000000)
    images = [elf, bzimage(elf, gzip.compress(elf, mtime=0)), bzimage(elf, lzma.compress(elf)), multiboot()]
    for i in range(count):
        data = bytearray(images[i % len(images)])
        head = min(len(data), 0x280)
        for _ in range(rnd.randint(1, 12)):
            data[rnd.randrange(head) if rnd.random() < 0.8 else rnd.randrange(len(data))] = rnd.randrange(256)
        if rnd.random() < 0.2:
            del data[rnd.randrange(len(data)):]
        c.kernel("damaged image %d" % i, bytes(data), refuse=False)


GROUPS = {"options": options, "elf": elf_fields, "bzimage": bz_fields, "multiboot": multiboots, "noise": noise}
