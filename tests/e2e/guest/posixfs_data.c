/* SPDX-License-Identifier: MIT */
/* posixfs: what is in files, locks on them, and files that are none. */
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "posixfs.h"

/* ---- files ---- */

void test_open(void)
{
    enter("open");
    ERR(ENOENT, open_close("f", O_RDWR, 0));
    OK(open_close("f", O_RDWR | O_CREAT, 0644));
    IS(mode_of("f") == (S_IFREG | 0644));
    IS(st_of("f").st_size == 0);
    ERR(EEXIST, open_close("f", O_RDWR | O_CREAT | O_EXCL, 0644));
    OK(open_close("f", O_RDWR | O_CREAT, 0600));
    IS(mode_of("f") == (S_IFREG | 0644));
    OK(make("f", "hello"));
    OK(open_close("f", O_RDONLY, 0));
    IS(holds("f", "hello"));
    OK(open_close("f", O_WRONLY | O_TRUNC, 0));
    IS(st_of("f").st_size == 0);
    ERR(ENOTDIR, open_close("f", O_RDONLY | O_DIRECTORY, 0));
    ERR(ENOTDIR, open_close("f/x", O_RDWR | O_CREAT, 0644));
    ERR(ENOTDIR, open_close("f/", O_RDONLY, 0));
    OK(mkdir("d", 0755));
    ERR(EISDIR, open_close("d", O_RDWR, 0));
    ERR(EISDIR, open_close("d", O_WRONLY, 0));
    ERR(EISDIR, open_close("d", O_RDWR | O_CREAT, 0644));
    OK(open_close("d", O_RDONLY, 0));
    OK(open_close("d", O_RDONLY | O_DIRECTORY, 0));
    ERR(ENOENT, open_close("none/x", O_RDWR | O_CREAT, 0644));
    ERR(ENOENT, open_close("", O_RDONLY, 0));
    OK(open_close(name255, O_RDWR | O_CREAT, 0644));
    ERR(ENAMETOOLONG, open_close(name256, O_RDWR | O_CREAT, 0644));
    OK(unlink(name255));
    OK(symlink("f", "l"));
    ERR(ELOOP, open_close("l", O_RDONLY | O_NOFOLLOW, 0));
    OK(open_close("l", O_RDONLY, 0));
    ERR(EEXIST, open_close("l", O_RDWR | O_CREAT | O_EXCL, 0644));
    OK(symlink("new", "dangling"));
    ERR(ENOENT, open_close("dangling", O_RDONLY, 0));
    ERR(EEXIST, open_close("dangling", O_RDWR | O_CREAT | O_EXCL, 0644));
    OK(open_close("dangling", O_RDWR | O_CREAT, 0644));
    IS(S_ISREG(mode_of("new")));
    static const mode_t masks[] = { 0, 022, 027, 077, 0777 };
    for (unsigned i = 0; i < 5; i++) {
        char name[16];
        snprintf(name, sizeof(name), "m%u", i);
        umask(masks[i]);
        OK(open_close(name, O_RDWR | O_CREAT, 0666));
        IS(mode_of(name) == (S_IFREG | (0666 & ~masks[i])));
    }
    umask(022);
    /* The mode is for later openers: this one may write. */
    int fd = open("ro", O_RDWR | O_CREAT | O_EXCL, 0444);
    OK(fd);
    OK(write(fd, "x", 1));
    close(fd);
    IS(mode_of("ro") == (S_IFREG | 0444));
    leave();
}

void test_io(void)
{
    char b[100];
    enter("io");
    int fd = open("f", O_RDWR | O_CREAT, 0644);
    OK(fd);
    IS(write(fd, "0123456789", 10) == 10);
    IS(lseek(fd, 0, SEEK_CUR) == 10);
    IS(pread(fd, b, 4, 3) == 4 && memcmp(b, "3456", 4) == 0);
    IS(pwrite(fd, "AB", 2, 4) == 2);
    IS(lseek(fd, 0, SEEK_CUR) == 10);
    IS(read(fd, b, 10) == 0);
    IS(lseek(fd, -3, SEEK_END) == 7);
    IS(read(fd, b, 10) == 3 && memcmp(b, "789", 3) == 0);
    ERR(EINVAL, lseek(fd, -1, SEEK_SET));
    IS(lseek(fd, 100, SEEK_SET) == 100);
    IS(read(fd, b, 10) == 0);
    IS(write(fd, "end", 3) == 3);
    IS(st_of("f").st_size == 103);
    IS(pread(fd, b, 100, 5) == 98 && b[0] == 'B' && b[5] == 0 && b[94] == 0 && b[95] == 'e');
    struct iovec v[3] = { { b, 2 }, { b + 50, 3 }, { b + 60, 40 } };
    IS(preadv(fd, v, 3, 0) == 45 && memcmp(b, "01", 2) == 0 && memcmp(b + 50, "23A", 3) == 0);
    IS(pwritev(fd, v, 2, 200) == 5);
    OK(fsync(fd));
    OK(fdatasync(fd));
    int r = open("f", O_RDONLY), w = open("f", O_WRONLY);
    ERR(EBADF, write(r, "x", 1));
    ERR(EBADF, read(w, b, 1));
    ERR(EBADF, pwrite(r, "x", 1, 0));
    IS(pwrite(w, "Z", 1, 0) == 1);
    IS(pread(r, b, 1, 0) == 1 && b[0] == 'Z'); /* seen by others at once */
    IS(pread(fd, b, 1, 0) == 1 && b[0] == 'Z');
    close(r);
    close(w);
    OK(ftruncate(fd, 0));
    int a1 = open("f", O_WRONLY | O_APPEND), a2 = open("f", O_WRONLY | O_APPEND);
    IS(write(a1, "aa", 2) == 2);
    IS(write(a2, "bb", 2) == 2);
    IS(write(a1, "cc", 2) == 2);
    IS(holds("f", "aabbcc"));
    IS(st_of("f").st_size == 6);
    close(a1);
    close(a2);
    close(fd);
    OK(mkdir("d", 0755));
    fd = open("d", O_RDONLY);
    ERR(EISDIR, read(fd, b, 1));
    OK(fsync(fd));
    close(fd);
    leave();
}

/* Sizes around pages and messages, written and read in pieces of others. */
void test_sizes(void)
{
    static const size_t sizes[] = { 1, 4095, 4096, 4097, 65535, 511976, 511977, 512000, 512001, 1500000 };
    static const size_t steps[] = { 100000, 4096, 1 << 20, 7777, 512000 };
    static uint8_t a[1500000], b[1500000];
    enter("sizes");
    for (size_t i = 0; i < sizeof(a); i++)
        a[i] = (uint8_t)(i * 31 + (i >> 8) * 7);
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t n = sizes[i], w = steps[i % 5], r = steps[(i + 2) % 5], at = 0;
        int fd = open("f", O_RDWR | O_CREAT | O_TRUNC, 0644);
        while (at < n) {
            ssize_t k = write(fd, a + at, n - at < w ? n - at : w);
            if (k <= 0)
                break;
            at += (size_t)k;
        }
        IS(at == n);
        IS(st_of("f").st_size == (off_t)n);
        memset(b, 0, n);
        lseek(fd, 0, SEEK_SET);
        for (at = 0; at < n;) {
            ssize_t k = read(fd, b + at, n - at < r ? n - at : r);
            if (k <= 0)
                break;
            at += (size_t)k;
        }
        IS(at == n && memcmp(a, b, n) == 0);
        IS(read(fd, b, 1) == 0);
        close(fd);
    }
    leave();
}

void test_truncate(void)
{
    char b[16];
    enter("truncate");
    OK(make("f", "0123456789"));
    OK(truncate("f", 4));
    IS(holds("f", "0123"));
    OK(truncate("f", 8));
    IS(st_of("f").st_size == 8);
    int fd = open("f", O_RDWR);
    IS(read(fd, b, 16) == 8 && memcmp(b, "0123\0\0\0\0", 8) == 0);
    OK(ftruncate(fd, 0));
    IS(st_of("f").st_size == 0);
    ERR(EINVAL, ftruncate(fd, -1));
    OK(ftruncate(fd, 1L << 40));
    IS(st_of("f").st_size == 1L << 40);
    IS(st_of("f").st_blocks < 100);
    IS(pwrite(fd, "x", 1, (1L << 40) + 5) == 1);
    IS(pread(fd, b, 10, (1L << 40) + 1) == 5 && b[4] == 'x' && b[0] == 0);
    close(fd);
    fd = open("f", O_RDONLY);
    ERR(EINVAL, ftruncate(fd, 0));
    close(fd);
    ERR(ENOENT, truncate("none", 0));
    OK(mkdir("d", 0755));
    ERR(EISDIR, truncate("d", 0));
    ERR(ENOTDIR, truncate("f/x", 0));
    ERR(EINVAL, truncate("f", -1));
    ERR(ENAMETOOLONG, truncate(name256, 0));
    OK(chmod("f", 0444));
    OK(truncate("f", 0)); /* root may */
    leave();
}

/* ---- the rest ---- */

static int lock_op(int fd, int op, short type, off_t start, off_t len)
{
    struct flock l = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };
    int r = fcntl(fd, op, &l);
    return r < 0 ? r : op == F_GETLK ? l.l_type : 0;
}

void test_locks(void)
{
    int up[2], down[2];
    char c;
    enter("locks");
    OK(make("f", "0123456789"));
    int fd = open("f", O_RDWR), fd2 = open("f", O_RDWR);
    OK(lock_op(fd, F_SETLK, F_WRLCK, 0, 5));
    OK(lock_op(fd2, F_SETLK, F_WRLCK, 0, 5)); /* of the same process */
    IS(lock_op(fd2, F_GETLK, F_WRLCK, 0, 5) == F_UNLCK);
    /* Of a file of its own: 9p turns flock into fcntl, and they would meet. */
    OK(make("g", "x"));
    int whole = open("g", O_RDWR);
    OK(flock(whole, LOCK_SH));
    if (pipe(up) < 0 || pipe(down) < 0)
        exit(2);
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        checks = failed = 0;
        int f = open("f", O_RDWR), g = open("g", O_RDWR);
        ERR(EAGAIN, lock_op(f, F_SETLK, F_WRLCK, 4, 1));
        ERR(EAGAIN, lock_op(f, F_SETLK, F_RDLCK, 0, 0));
        IS(lock_op(f, F_GETLK, F_WRLCK, 0, 10) == F_WRLCK);
        OK(lock_op(f, F_SETLK, F_WRLCK, 5, 5));
        ERR(EAGAIN, flock(g, LOCK_EX | LOCK_NB));
        if (write(up[1], "x", 1) != 1 || read(down[0], &c, 1) != 1)
            _exit(255);
        OK(lock_op(f, F_SETLKW, F_WRLCK, 0, 5)); /* waits for the parent */
        OK(flock(g, LOCK_EX));
        fflush(stdout);
        _exit((int)failed);
    }
    if (read(up[0], &c, 1) != 1)
        exit(2);
    ERR(EAGAIN, lock_op(fd, F_SETLK, F_RDLCK, 7, 1));
    if (write(down[1], "x", 1) != 1)
        exit(2);
    usleep(50000);
    OK(lock_op(fd, F_SETLK, F_UNLCK, 0, 0));
    OK(flock(whole, LOCK_UN));
    int status = -1;
    waitpid(pid, &status, 0);
    checks += 7;
    failed += WIFEXITED(status) ? (unsigned)WEXITSTATUS(status) : 1;
    OK(lock_op(fd, F_SETLK, F_WRLCK, 0, 0));
    close(fd);
    close(fd2);
    close(whole);
    leave();
}

void test_mmap(void)
{
    enter("mmap");
    int fd = open("f", O_RDWR | O_CREAT, 0644);
    IS(write(fd, "hello", 5) == 5);
    char *p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    IS(p != MAP_FAILED);
    if (p != MAP_FAILED) {
        IS(memcmp(p, "hello\0", 6) == 0);
        p[0] = 'J';
        IS(holds("f", "hello"));
        munmap(p, 4096);
    }
    if (shared_mmap) {
        OK(ftruncate(fd, 20000));
        p = mmap(NULL, 20000, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        IS(p != MAP_FAILED);
        if (p != MAP_FAILED) {
            memcpy(p + 4094, "across", 6);
            p[19999] = 'z';
            OK(msync(p, 20000, MS_SYNC));
            munmap(p, 20000);
            char b[8];
            IS(pread(fd, b, 6, 4094) == 6 && memcmp(b, "across", 6) == 0);
            IS(pread(fd, b, 6, 19999) == 1 && b[0] == 'z');
        }
    }
    close(fd);
    leave();
}

void test_special(void)
{
    struct statvfs v;
    struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "sock" };
    enter("special");
    OK(mkfifo("p", 0640));
    IS(mode_of("p") == (S_IFIFO | 0640));
    ERR(EEXIST, mkfifo("p", 0640));
    int r = open("p", O_RDONLY | O_NONBLOCK), w = open("p", O_WRONLY);
    char b[4];
    IS(write(w, "abc", 3) == 3 && read(r, b, 4) == 3);
    close(r);
    close(w);
    OK(mknod("r", S_IFREG | 0600, 0));
    IS(mode_of("r") == (S_IFREG | 0600));
    int s = socket(AF_UNIX, SOCK_STREAM, 0);
    OK(bind(s, (struct sockaddr *)&a, sizeof(a)));
    OK(listen(s, 1));
    IS(S_ISSOCK(mode_of("sock")));
    int k = socket(AF_UNIX, SOCK_STREAM, 0);
    OK(connect(k, (struct sockaddr *)&a, sizeof(a)));
    ERR(ENXIO, open_close("sock", O_RDWR, 0));
    close(k);
    close(s);
    OK(statvfs(".", &v));
    IS(v.f_bsize > 0 && v.f_blocks > 0 && v.f_bfree <= v.f_blocks && v.f_namemax == 255);
    /* Strange names. */
    static const char *const names[] = { " ", "a b", "\n", "\xff\xfe", "-", "...", "\"'$`", "\xc3\xa1rv\xc3\xadz" };
    for (unsigned i = 0; i < 8; i++) {
        OK(make(names[i], names[i]));
        IS(holds(names[i], names[i]));
        OK(unlink(names[i]));
    }
    leave();
}
