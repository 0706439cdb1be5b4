/* SPDX-License-Identifier: MIT */
/*
 * What POSIX says of files, asked of the directory that is given: run as root, on the host to see that the questions
 * are right, and in a guest on a shared directory. Prints each failure and "posixfs: N checks, M failed".
 *
 *   posixfs DIR [owners] [mmap]      owners: chown works; mmap: shared writable mappings do
 */
#include "posixfs.h"

#include <sys/wait.h>
#include <sys/xattr.h>

unsigned checks, failed;
bool owners, shared_mmap;
char name255[256], name256[257];

void check(bool ok, int line, const char *what, const char *why)
{
    checks++;
    if (ok)
        return;
    failed++;
    printf("posixfs: line %d: %s: %s\n", line, what, why);
}

void check_result(long r, int err, int line, const char *what)
{
    int got = r < 0 ? errno : 0;
    char why[100];
    snprintf(why, sizeof(why), "got %s, not %s", got ? strerror(got) : "success", err ? strerror(err) : "success");
    check(got == err, line, what, why);
}

void enter(const char *name)
{
    umask(022);
    if (mkdir(name, 0755) < 0 || chdir(name) < 0) {
        perror(name);
        exit(2);
    }
}
void leave(void)
{
    if (chdir("..") < 0)
        exit(2);
}

int make(const char *name, const char *text)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    bool ok = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    if (fd >= 0)
        close(fd);
    return ok ? 0 : -1;
}

bool holds(const char *name, const char *text)
{
    char b[256] = "";
    int fd = open(name, O_RDONLY);
    ssize_t n = fd < 0 ? -1 : read(fd, b, sizeof(b) - 1);
    if (fd >= 0)
        close(fd);
    return n == (ssize_t)strlen(text) && strcmp(b, text) == 0;
}

struct stat st_of(const char *name)
{
    struct stat st;
    memset(&st, 0, sizeof(st));
    if (lstat(name, &st) < 0)
        st.st_size = -1;
    return st;
}
mode_t mode_of(const char *name)
{
    return st_of(name).st_mode;
}
int open_close(const char *name, int flags, mode_t mode)
{
    int fd = open(name, flags, mode);
    if (fd >= 0)
        close(fd);
    return fd;
}

/* ---- attributes ---- */

static void test_modes(void)
{
    static const mode_t modes[] = { 0, 0400, 0644, 0777, 04755, 02755, 06711, 01777 };
    struct stat st;
    enter("modes");
    OK(make("f", "x"));
    OK(mkdir("d", 0755));
    for (unsigned i = 0; i < 8; i++) {
        OK(chmod("f", modes[i]));
        IS(mode_of("f") == (S_IFREG | modes[i]));
        OK(chmod("d", modes[i]));
        IS(mode_of("d") == (S_IFDIR | modes[i]));
    }
    int fd = open("f", O_RDONLY);
    OK(fchmod(fd, 0640));
    OK(fstat(fd, &st));
    IS(st.st_mode == (S_IFREG | 0640));
    close(fd);
    ERR(ENOENT, chmod("none", 0644));
    ERR(ENOTDIR, chmod("f/x", 0644));
    OK(symlink("f", "l"));
    OK(chmod("l", 0600));
    IS(mode_of("f") == (S_IFREG | 0600));
    IS(S_ISLNK(mode_of("l")));
    IS(st_of("f").st_uid == 0 && st_of("f").st_gid == 0);
    OK(chown("f", 0, 0));
    OK(chown("f", (uid_t)-1, (gid_t)-1));
    OK(chmod("f", 06755));
    OK(chown("f", 1000, 1001)); /* also where it is only taken */
    if (owners) {
        IS(st_of("f").st_uid == 1000 && st_of("f").st_gid == 1001);
        IS(mode_of("f") == (S_IFREG | 0755));
        OK(chown("f", (uid_t)-1, 5));
        IS(st_of("f").st_uid == 1000 && st_of("f").st_gid == 5);
        OK(lchown("l", 7, 8));
        IS(st_of("l").st_uid == 7 && st_of("f").st_uid == 1000);
        OK(chown("l", 9, 9));
        IS(st_of("l").st_uid == 7 && st_of("f").st_uid == 9);
    }
    ERR(ENOENT, chown("none", 0, 0));
    OK(access("f", R_OK | W_OK | X_OK));
    OK(chmod("f", 0644));
    ERR(EACCES, access("f", X_OK));
    ERR(ENOENT, access("none", F_OK));
    leave();
}

/* What another user may: the guest's kernel decides by what it was told. */
static void test_user(void)
{
    enter("user");
    OK(make("secret", "x"));
    OK(chmod("secret", 0600));
    OK(make("public", "x"));
    OK(mkdir("closed", 0700));
    OK(mkdir("open", 0777));
    OK(chmod("open", 0777));
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        checks = failed = 0;
        if (setgid(1000) < 0 || setuid(1000) < 0)
            _exit(255);
        ERR(EACCES, open_close("secret", O_RDONLY, 0));
        OK(open_close("public", O_RDONLY, 0));
        ERR(EACCES, open_close("public", O_WRONLY, 0));
        ERR(EACCES, open_close("new", O_RDWR | O_CREAT, 0644));
        ERR(EACCES, open_close("closed/x", O_RDONLY, 0));
        ERR(EACCES, unlink("public"));
        ERR(EACCES, mkdir("d", 0755));
        ERR(EACCES, rename("public", "p2"));
        ERR(EPERM, chmod("public", 0777));
        ERR(EPERM, chown("public", 1000, 1000));
        OK(open_close("open/mine", O_RDWR | O_CREAT, 0644));
        if (owners)
            IS(st_of("open/mine").st_uid == 1000 && st_of("open/mine").st_gid == 1000);
        fflush(stdout);
        _exit((int)failed);
    }
    int status = -1;
    waitpid(pid, &status, 0);
    checks += 11;
    failed += WIFEXITED(status) ? (unsigned)WEXITSTATUS(status) : 1;
    leave();
}

static void test_times(void)
{
    enter("times");
    OK(make("f", "x"));
    struct timespec t[2] = { { 1000000000, 123456789 }, { 1234567890, 987654321 } };
    OK(utimensat(AT_FDCWD, "f", t, 0));
    struct stat st = st_of("f");
    /* Linux 6.1's 9p keeps whole seconds of what is set. */
    IS(st.st_atim.tv_sec == 1000000000 && (st.st_atim.tv_nsec == 123456789 || st.st_atim.tv_nsec == 0));
    IS(st.st_mtim.tv_sec == 1234567890 && (st.st_mtim.tv_nsec == 987654321 || st.st_mtim.tv_nsec == 0));
    IS(st.st_ctim.tv_sec > 1600000000);
    t[0].tv_nsec = UTIME_OMIT;
    t[1].tv_sec = 5;
    OK(utimensat(AT_FDCWD, "f", t, 0));
    st = st_of("f");
    IS(st.st_atim.tv_sec == 1000000000 && st.st_mtim.tv_sec == 5);
    OK(utimensat(AT_FDCWD, "f", NULL, 0));
    st = st_of("f");
    IS(st.st_mtim.tv_sec > 1600000000 && st.st_atim.tv_sec > 1600000000);
    OK(symlink("f", "l"));
    t[0] = t[1] = (struct timespec){ 77, 0 };
    OK(utimensat(AT_FDCWD, "l", t, AT_SYMLINK_NOFOLLOW));
    IS(st_of("l").st_mtim.tv_sec == 77 && st_of("f").st_mtim.tv_sec != 77);
    OK(utimensat(AT_FDCWD, "l", t, 0));
    IS(st_of("f").st_mtim.tv_sec == 77);
    int fd = open("f", O_RDWR);
    t[1].tv_sec = 88;
    OK(futimens(fd, t));
    IS(st_of("f").st_mtim.tv_sec == 88);
    IS(write(fd, "y", 1) == 1);
    IS(st_of("f").st_mtim.tv_sec > 1600000000);
    OK(futimens(fd, t));
    OK(ftruncate(fd, 0));
    IS(st_of("f").st_mtim.tv_sec > 1600000000);
    close(fd);
    OK(mkdir("d", 0755));
    OK(utimensat(AT_FDCWD, "d", t, 0));
    IS(st_of("d").st_mtim.tv_sec == 88);
    OK(make("d/x", ""));
    IS(st_of("d").st_mtim.tv_sec > 1600000000);
    ERR(ENOENT, utimensat(AT_FDCWD, "none", t, 0));
    leave();
}

static void test_xattrs(void)
{
    char b[256];
    static char big[3000];
    enter("xattrs");
    OK(make("f", "x"));
    OK(mkdir("d", 0755));
    if (setxattr("f", "user.a", "1", 1, 0) < 0 && errno == EOPNOTSUPP) {
        printf("posixfs: no extended attributes here\n");
        leave();
        return;
    }
    for (unsigned i = 0; i < 2; i++) {
        const char *n = i ? "d" : "f";
        OK(setxattr(n, "user.a", "hello", 5, 0));
        IS(getxattr(n, "user.a", b, sizeof(b)) == 5 && memcmp(b, "hello", 5) == 0);
        IS(getxattr(n, "user.a", b, 0) == 5);
        ERR(ERANGE, getxattr(n, "user.a", b, 4));
        ERR(EEXIST, setxattr(n, "user.a", "x", 1, XATTR_CREATE));
        ERR(ENODATA, setxattr(n, "user.b", "x", 1, XATTR_REPLACE));
        OK(setxattr(n, "user.b", "", 0, 0));
        IS(getxattr(n, "user.b", b, sizeof(b)) == 0);
        IS(listxattr(n, b, sizeof(b)) >= 14);
        ERR(ERANGE, listxattr(n, b, 3));
        OK(removexattr(n, "user.a"));
        ERR(ENODATA, getxattr(n, "user.a", b, sizeof(b)));
        ERR(ENODATA, removexattr(n, "user.a"));
        OK(setxattr(n, "user.big", big, sizeof(big), 0));
        IS(getxattr(n, "user.big", big, sizeof(big)) == sizeof(big));
    }
    OK(symlink("f", "l"));
    ERR(EPERM, lsetxattr("l", "user.a", "x", 1, 0));
    leave();
}

int main(int argc, char **argv)
{
    if (argc < 2 || chdir(argv[1]) < 0) {
        fprintf(stderr, "usage: posixfs DIR [owners] [mmap]\n");
        return 2;
    }
    for (int i = 2; i < argc; i++) {
        owners |= strcmp(argv[i], "owners") == 0;
        shared_mmap |= strcmp(argv[i], "mmap") == 0;
    }
    memset(name255, 'n', 255);
    memset(name256, 'n', 256);
    static void (*const tests[])(void) = { test_open,   test_io,     test_sizes,   test_truncate,
                                           test_mkdir,  test_unlink, test_readdir, test_rename,
                                           test_links,  test_modes,  test_user,    test_times,
                                           test_xattrs, test_locks,  test_mmap,    test_special };
    for (unsigned i = 0; i < sizeof(tests) / sizeof(tests[0]); i++)
        tests[i]();
    printf("posixfs: %u checks, %u failed\n", checks, failed);
    return failed != 0;
}
