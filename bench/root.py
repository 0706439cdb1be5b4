# SPDX-License-Identifier: MIT
"""The Debian systems whose programs rows run: unpacked packages in a folder, for native runs, and as initrds.

The packages are named here one by one, what they depend on included: tools/debget fetches what it is told and nothing
else. Documentation and what no row uses is left out, since guests keep the system in memory.
"""
import hashlib
import os
import shutil
import subprocess

TOP = os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
APPS = os.path.join(TOP, "bench", "apps")

# A folder each. The parts of one system share it; each is an initrd, and a guest gets those that its rows need.
SYSTEMS = {"apps": ["base", "jit"], "disk": ["fio"], "network": ["iperf3"]}
PACKAGES = {
    "base": "libc6 dash coreutils findutils libacl1 libattr1 libselinux1 libpcre2-8-0 libgmp10 zlib1g libtinfo6 libreadline8 "
            "libcrypt1 libgcc-s1 libmpfr6 libzstd1 gzip xz-utils liblzma5 perl-base lua5.4 sqlite3 libsqlite3-0 gawk "
            "libsigsegv2 openssl libssl3 bc python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libexpat1 "
            "cpp-12 libisl23 libmpc3",
    "jit": "luajit libluajit-5.1-2 libluajit-5.1-common nodejs libnode108 libstdc++6 libbrotli1 libc-ares2 libicu72 "
           "libnghttp2-14 libuv1 node-acorn node-cjs-module-lexer node-undici",
    # fio is linked with the libraries of all its engines.
    "fio": "fio libc6 libaio1 libnuma1 zlib1g libgfapi0 libgfrpc0 libgfxdr0 libglusterfs0 libacl1 libtirpc3 libgssapi-krb5-2 "
           "libkrb5-3 libk5crypto3 libkrb5support0 libcom-err2 libkeyutils1 libuuid1 libnbd0 libgnutls30 libp11-kit0 libffi8 "
           "libidn2-0 libunistring2 libtasn1-6 libnettle8 libhogweed6 libgmp10 libxml2 libicu72 liblzma5 libibverbs1 "
           "librdmacm1 libnl-3-200 libnl-route-3-200 libpmem1 libpmemblk1 libndctl6 libdaxctl1 libkmod2 libzstd1 librados2 "
           "librbd1 libboost-iostreams1.74.0 libboost-thread1.74.0 libbz2-1.0 libfmt9 libstdc++6 libgcc-s1 libssl3 "
           "libcryptsetup12 libargon2-1 libjson-c5 libdevmapper1.02.1 libselinux1 libpcre2-8-0 libudev1 libblkid1",
    "iperf3": "iperf3 libiperf0 libc6 libsctp1 libssl3",
}
LEFT_OUT = ["./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./usr/share/info", "./usr/share/lintian",
            "./usr/include", "./usr/lib/x86_64-linux-gnu/gconv", "./usr/lib/x86_64-linux-gnu/perl-base/unicore",
            "./usr/bin/perl5*", "./usr/lib/x86_64-linux-gnu/ossl-modules", "./usr/share/awk", "./usr/lib/locale",
            "./usr/lib/python3.11/pydoc_data", "./usr/lib/python3.11/distutils", "./usr/lib/python3.11/idlelib",
            "./var/lib", "./usr/share/zsh", "./usr/share/bash-completion", "./usr/lib/x86_64-linux-gnu/libibverbs"]


def text(size):
    """English-looking lines of a fixed pseudo-random sequence, frequent words often."""
    x = 12345

    def draw():
        nonlocal x
        x = (x * 6364136223846793005 + 1442695040888963407) & 0xffffffffffffffff
        return (x >> 33) / (1 << 31)

    parts = "th an er in re on at en nd ti es or te of ed is it al ar st to nt ng se ha as ou io le ve".split()
    words = ["".join(parts[int(draw() * 30)] for _ in range(1 + int(draw() * 4))) for _ in range(4000)]
    lines, line, have = [], [], 0
    while have < size:
        w = words[int(draw() ** 3 * 4000)]
        line.append(w + "," if draw() < 0.06 else w)
        if len(line) == 12:
            lines.append(" ".join(line) + ("." if draw() < 0.5 else ""))
            have += len(lines[-1]) + 1
            line = []
    return ("\n".join(lines) + "\n").encode()[:size]


def numbers(count):
    """Lines "N,WORD" in no order."""
    x, lines = 1, []
    for _ in range(count):
        x = x * 16807 % 2147483647
        lines.append("%d,%x%s" % (x % 1000003, x * 31 & 0xfffff, "abcdefgh"[x % 8]))
    return ("\n".join(lines) + "\n").encode()


def fetch(part):
    """The paths of a part's .debs."""
    names = [n + ":amd64" for n in PACKAGES[part].split()]
    r = subprocess.run([os.path.join(TOP, "tools", "debget")] + names, stdout=subprocess.PIPE, text=True, check=False)
    if r.returncode != 0:
        raise RuntimeError("the Debian packages of %s cannot be had" % part)
    return r.stdout.split()


def unpack(debs, into):
    for link in ("bin", "lib", "lib64", "sbin"):
        os.makedirs(os.path.join(into, "usr", link), exist_ok=True)
        os.symlink("usr/" + link, os.path.join(into, link))
    for deb in debs:
        p = subprocess.Popen(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
        subprocess.run(["tar", "-x", "--keep-directory-symlink", "--no-same-owner", "-C", into] +
                       ["--exclude=" + x for x in LEFT_OUT], stdin=p.stdout, check=True)
        p.stdout.close()
        if p.wait() != 0:
            raise RuntimeError("cannot unpack " + deb)
    for name in ("tmp", "dev", "proc", "bench"):
        os.makedirs(os.path.join(into, name), exist_ok=True)


def digest(debs):
    h = hashlib.sha256()
    for deb in debs:
        h.update(os.path.basename(deb).encode())
    with open(__file__, "rb") as f:
        h.update(f.read())
    for name in sorted(os.listdir(APPS)):
        with open(os.path.join(APPS, name), "rb") as f:
            h.update(name.encode() + b"\0" + f.read())
    return h.hexdigest()


def cpio(folder, name, where):
    """The folder as an initrd in which it is /bench/root; moved there and back, so that nothing is copied."""
    top = os.path.join(folder, name + ".top")
    os.makedirs(os.path.join(top, "bench"))
    os.rename(where, os.path.join(top, "bench", "root"))
    try:
        subprocess.run([os.path.join(TOP, "tools", "mkcpio"), os.path.join(folder, name + ".cpio"), top], check=True)
    finally:
        os.rename(os.path.join(top, "bench", "root"), where)
        shutil.rmtree(top)


def build(cache, system="apps"):
    """(the system's folder, {part: initrd}); kept in the cache until the packages or the scripts change."""
    folder = os.path.join(cache, "bench-" + system)
    parts = SYSTEMS[system]
    debs = {p: fetch(p) for p in parts}
    now = digest([d for p in parts for d in debs[p]])
    root = os.path.join(folder, "root")
    initrds = {p: os.path.join(folder, p + ".cpio") for p in parts}
    stamp = os.path.join(folder, "digest")
    if os.path.exists(stamp):
        with open(stamp, encoding="ascii") as f:
            if f.read() == now:
                return root, initrds
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(root)
    for p in parts:
        own = os.path.join(folder, "own")
        unpack(debs[p], own)
        if p == "base":
            for name in os.listdir(APPS):
                shutil.copy(os.path.join(APPS, name), os.path.join(own, "bench"))
            for name, data in (("text.txt", text(4000000)), ("numbers.txt", numbers(60000))):
                with open(os.path.join(own, "bench", name), "wb") as f:
                    f.write(data)
        cpio(folder, p, own)
        subprocess.run(["cp", "-a", own + "/.", root], check=True)
        shutil.rmtree(own)
    with open(stamp, "w", encoding="ascii") as f:
        f.write(now)
    return root, initrds
