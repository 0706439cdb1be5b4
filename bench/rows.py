# SPDX-License-Identifier: MIT
"""The rows of the table, their groups, and what gazda aims at in each group. docs/bench.md explains them."""
import collections

# native: at most so many times the native time; tcg: at least so many times faster than QEMU's TCG; scaling: four
# threads on four CPUs at least so many times faster than on one. They are about the geometric mean of the group.
Group = collections.namedtuple("Group", "key title native tcg scaling")
GROUPS = [
    Group("compute", "integer computing", None, None, None),
    Group("float", "float and SIMD", 1.4, None, None),
    Group("apps", "applications", 2.2, 4.5, None),
    Group("kernel", "kernel work", None, 3.5, None),
    Group("32bit", "32-bit", None, 3.0, None),
    Group("boot", "boot to shell", None, 2.0, None),
    Group("jit", "programs that compile", None, 3.0, None),
    Group("smp", "four CPUs", None, None, 1.8),
    Group("io", "disk", None, 2.0, None),
    Group("net", "network", None, 2.0, None),
]

# factor: from the measured nanoseconds (boot: seconds) to the unit. counted: part of the group's means. Unit "x": a
# ratio already, and more is better.
Row = collections.namedtuple("Row", "key group title unit factor counted")


def _rows():
    def add(group, unit, factor, *pairs):
        return [Row(key, group, title, unit, factor, True) for key, title in pairs]

    rows = add("compute", "ns/instruction", 1, ("int", "integer loop"))
    rows += add("compute", "ns/byte", 1, ("sha256", "sha256"))
    rows += add("compute", "ns/element", 1, ("sort", "qsort"))
    rows += add("float", "ns/step", 1, ("float", "scalar doubles"), ("x87", "x87"))
    rows += add("float", "ns/element", 1, ("sse2", "SSE2 doubles"), ("sse2i", "SSE2 integers"), ("avx2", "AVX2 doubles"),
                ("avx2i", "AVX2 integers"), ("gather", "AVX2 gather"))
    rows += add("float", "ns/call", 1, ("libm", "libm"))
    rows += add("apps", "ms", 1e-6, ("python", "python3"), ("lua", "lua5.4"), ("perl", "perl"), ("sqlite", "sqlite3"),
                ("cc1", "gcc -O2 (cc1)"), ("gzip", "gzip"), ("xz", "xz"), ("sha256sum", "sha256sum"),
                ("coresort", "sort"), ("dash", "shell loop (dash)"), ("gawk", "gawk"), ("openssl", "openssl"), ("bc", "bc"))
    rows += add("kernel", "us", 1e-3, ("getpid", "getpid"), ("stat", "stat"), ("readzero", "read 4 KiB, /dev/zero"),
                ("readfile", "read 4 KiB, tmpfs"), ("writefile", "write 4 KiB, tmpfs"), ("switch", "pipe ping-pong"),
                ("socket", "unix socket ping-pong"), ("futex", "futex ping-pong"), ("yield", "sched_yield"),
                ("fork", "fork+exit"), ("forkexec", "fork+exec"), ("thread", "thread create+join"),
                ("faults", "page fault"), ("mmap", "mmap+munmap"), ("mprotect", "mprotect, 16 pages"),
                ("cow", "copy on write, a page"), ("signal", "signal"), ("sigsegv", "SIGSEGV handler"))
    rows += add("32bit", "ns/instruction", 1, ("m32_int", "integer loop, -m32"))
    rows += add("32bit", "ns/byte", 1, ("m32_sha256", "sha256, -m32"))
    rows += add("32bit", "ns/element", 1, ("m32_sort", "qsort, -m32"))
    rows += add("32bit", "ns/step", 1, ("m32_float", "doubles on x87, -m32"))
    rows += add("32bit", "us", 1e-3, ("m32_getpid", "getpid, -m32"), ("m32_stat", "stat, -m32"),
                ("m32_switch", "pipe ping-pong, -m32"), ("m32_forkexec", "fork+exec, -m32"),
                ("m32_faults", "page fault, -m32"), ("m32_signal", "signal, -m32"))
    rows += add("32bit", "s", 1, ("boot_686pae", "boot 686-pae"))
    rows += add("boot", "s", 1, ("boot_amd64", "amd64 / -M pc"), ("boot_amd64_microvm", "amd64 / -M microvm"),
                ("boot_cloud", "cloud-amd64 / -M pc"), ("boot_cloud_microvm", "cloud-amd64 / -M microvm"),
                ("boot_pvh", "amd64, PVH / -M pc"))
    rows.append(Row("overhead", "boot", "memory over the guest's", "MiB", 1, False))
    rows += add("jit", "ms", 1e-6, ("luajit", "luajit"), ("node", "nodejs"))
    rows += add("smp", "ns/step", 1, ("par4_1", "4 threads on 1 CPU"), ("par4_4", "4 threads on 4 CPUs"))
    rows.append(Row("scaling", "smp", "4 CPUs over 1", "x", 1, False))
    rows += add("io", "us", 1e-3, ("randread", "fio random read 4 KiB"), ("randwrite", "fio random write 4 KiB"),
                ("randread32", "same, 32 in flight"), ("randwrite32", "same, 32 in flight"),
                ("seqread", "fio read 256 KiB"), ("seqwrite", "fio write 256 KiB"))
    rows += add("net", "us", 1e-3, ("nettx", "iperf3, 256 KiB"), ("netrx", "iperf3 -R, 256 KiB"), ("netrtt", "a byte and back"))
    return rows


ROWS = _rows()
GROUP_OF = {r.key: r.group for r in ROWS}

# Boot rows: flavour, kernel file, machine of QEMU. gazda has one machine: rows of the same file are measured once.
# With ACPI the kernel finds no timer on a microvm under TCG to calibrate its clocks by.
MICROVM = "microvm,acpi=off,pit=on,pic=on,rtc=on"
BOOTS = {
    "boot_amd64": ("amd64", "vmlinuz", "pc"),
    "boot_amd64_microvm": ("amd64", "vmlinuz", MICROVM),
    "boot_cloud": ("cloud-amd64", "vmlinuz", "pc"),
    "boot_cloud_microvm": ("cloud-amd64", "vmlinuz", MICROVM),
    "boot_pvh": ("amd64", "vmlinux", "pc"),
    "boot_686pae": ("686-pae", "vmlinuz", "pc"),
}


def select(only):
    """The keys of the rows that --only names (groups or rows, with commas), in the table's order."""
    wanted = [w for w in (only or "").split(",") if w]
    groups = {g.key for g in GROUPS}
    unknown = [w for w in wanted if w not in groups and w not in GROUP_OF]
    if unknown:
        raise SystemExit("bench: no group or row %s; groups: %s; rows: %s" %
                         (", ".join(unknown), " ".join(g.key for g in GROUPS), " ".join(GROUP_OF)))
    if "scaling" in wanted:
        wanted += ["par4_1", "par4_4"]
    return [r.key for r in ROWS if not wanted or r.key in wanted or r.group in wanted]
