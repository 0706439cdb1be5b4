/* SPDX-License-Identifier: MIT */
/* posixfs: directories and names. */
#include "posixfs.h"

/* ---- directories ---- */

void test_mkdir(void)
{
    enter("mkdir");
    OK(mkdir("d", 0755));
    IS(mode_of("d") == (S_IFDIR | 0755));
    IS(st_of("d").st_nlink == 2 || st_of("d").st_nlink == 1);
    ERR(EEXIST, mkdir("d", 0755));
    OK(make("f", "x"));
    ERR(EEXIST, mkdir("f", 0755));
    ERR(ENOTDIR, mkdir("f/d", 0755));
    ERR(ENOENT, mkdir("none/d", 0755));
    OK(symlink("nowhere", "l"));
    ERR(EEXIST, mkdir("l", 0755));
    OK(mkdir(name255, 0755));
    ERR(ENAMETOOLONG, mkdir(name256, 0755));
    static const mode_t modes[] = { 0777, 0700, 0500, 01777, 0 };
    umask(0);
    for (unsigned i = 0; i < 5; i++) {
        OK(mkdir("m", modes[i]));
        IS(mode_of("m") == (S_IFDIR | modes[i]));
        OK(rmdir("m"));
    }
    umask(022);
    ERR(ENOTDIR, rmdir("f"));
    ERR(ENOTDIR, rmdir("l"));
    ERR(ENOENT, rmdir("none"));
    ERR(ENOTDIR, rmdir("f/d"));
    OK(mkdir("d/e", 0755));
    ERR(ENOTEMPTY, rmdir("d"));
    ERR(EINVAL, rmdir("d/e/."));
    ERR(ENOTEMPTY, rmdir("d/e/.."));
    OK(rmdir("d/e"));
    OK(rmdir("d"));
    ERR(ENOENT, rmdir("d"));
    OK(rmdir(name255));
    ERR(ENAMETOOLONG, rmdir(name256));
    /* Deep paths, and a directory that is gone under its user. */
    for (unsigned i = 0; i < 30; i++)
        if (mkdir("deep", 0755) < 0 || chdir("deep") < 0)
            IS(false);
    OK(make("bottom", "x"));
    IS(holds("bottom", "x"));
    OK(unlink("bottom"));
    for (unsigned i = 0; i < 30; i++)
        if (chdir("..") < 0 || rmdir("deep") < 0)
            IS(false);
    OK(mkdir("gone", 0755));
    int fd = open("gone", O_RDONLY);
    OK(rmdir("gone"));
    ERR(ENOENT, openat(fd, "x", O_RDWR | O_CREAT, 0644));
    ERR(ENOENT, mkdirat(fd, "x", 0755));
    close(fd);
    leave();
}

void test_unlink(void)
{
    char b[8];
    struct stat st;
    enter("unlink");
    OK(make("f", "hello"));
    int fd = open("f", O_RDWR), fd2 = open("f", O_RDONLY);
    OK(unlink("f"));
    ERR(ENOENT, unlink("f"));
    ERR(ENOENT, open_close("f", O_RDONLY, 0));
    IS(pread(fd, b, 5, 0) == 5 && memcmp(b, "hello", 5) == 0);
    IS(pwrite(fd, "HE", 2, 0) == 2);
    IS(pread(fd2, b, 5, 0) == 5 && memcmp(b, "HEllo", 5) == 0);
    OK(fstat(fd, &st));
    IS(st.st_size == 5);
    OK(ftruncate(fd, 2));
    OK(fsync(fd));
    OK(make("f", "other")); /* of the same name, and another file */
    IS(pread(fd2, b, 5, 0) == 2);
    IS(holds("f", "other"));
    close(fd);
    close(fd2);
    OK(mkdir("d", 0755));
    ERR(EISDIR, unlink("d"));
    ERR(ENOTDIR, unlink("f/x"));
    ERR(ENAMETOOLONG, unlink(name256));
    OK(symlink("f", "l"));
    OK(unlink("l"));
    IS(holds("f", "other"));
    OK(mkfifo("p", 0644));
    OK(unlink("p"));
    ERR(ENOTDIR, unlinkat(AT_FDCWD, "f", AT_REMOVEDIR));
    OK(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR));
    leave();
}

static unsigned count(const char *dir, unsigned *odd)
{
    unsigned n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        n++;
        char path[600];
        struct stat st;
        snprintf(path, sizeof(path), "%s/%s", dir, e->d_name);
        if (lstat(path, &st) < 0 || st.st_ino != e->d_ino ||
            (e->d_type != DT_UNKNOWN && (unsigned)DTTOIF(e->d_type) != (st.st_mode & S_IFMT)))
            ++*odd;
    }
    if (d)
        closedir(d);
    return n;
}

void test_readdir(void)
{
    unsigned odd = 0, n = 0;
    char name[64];
    enter("readdir");
    OK(mkdir("d", 0755));
    IS(count("d", &odd) == 0);
    for (unsigned i = 0; i < 500; i++) {
        snprintf(name, sizeof(name), "d/%u-%.*s", i, (int)(i % 30), "abcdefghijklmnopqrstuvwxyz0123456789");
        n += i % 5 == 0 ? mkdir(name, 0755) == 0 : i % 5 == 1 ? symlink("x", name) == 0 : make(name, "") == 0;
    }
    IS(n == 500);
    IS(count("d", &odd) == 500);
    IS(odd == 0);
    DIR *d = opendir("d");
    IS(d != NULL);
    long at[10];
    char after[10][256];
    for (unsigned i = 0; i < 10; i++) {
        for (unsigned k = 0; k < 20; k++)
            readdir(d);
        at[i] = telldir(d);
        snprintf(after[i], sizeof(after[i]), "%s", readdir(d)->d_name);
    }
    for (int i = 9; i >= 0; i--) {
        seekdir(d, at[i]);
        struct dirent *e = readdir(d);
        IS(e && strcmp(e->d_name, after[i]) == 0);
    }
    rewinddir(d);
    for (n = 0; readdir(d);)
        n++;
    IS(n == 502);
    closedir(d);
    /* Removing while reading, as rm -r does. */
    d = opendir("d");
    n = 0;
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.')
            n += unlinkat(dirfd(d), e->d_name, e->d_type == DT_DIR ? AT_REMOVEDIR : 0) == 0;
    closedir(d);
    IS(n == 500);
    IS(count("d", &odd) == 0);
    OK(rmdir("d"));
    OK(make("f", ""));
    IS(opendir("f") == NULL && errno == ENOTDIR);
    IS(opendir("none") == NULL && errno == ENOENT);
    leave();
}

/* ---- names ---- */

/* Every kind over every kind. */
void test_rename(void)
{
    static const char *const kinds[] = { "file", "dir", "full", "link", "fifo", "none" };
    enter("rename");
    for (unsigned a = 0; a < 6; a++)
        for (unsigned b = 0; b < 6; b++) {
            for (unsigned i = 0; i < 2; i++) {
                const char *name = i ? "b" : "a";
                unsigned k = i ? b : a;
                char sub[8];
                snprintf(sub, sizeof(sub), "%s/x", name);
                if (k == 0)
                    make(name, name);
                else if (k == 1 || k == 2)
                    mkdir(name, 0755);
                else if (k == 3)
                    symlink("target", name);
                else if (k == 4)
                    mkfifo(name, 0644);
                if (k == 2)
                    make(sub, "x");
            }
            bool da = a == 1 || a == 2, db = b == 1 || b == 2;
            int want = a == 5         ? ENOENT
                       : b == 5       ? 0
                       : da && !db    ? ENOTDIR
                       : !da && db    ? EISDIR
                       : db && b == 2 ? ENOTEMPTY
                                      : 0;
            ino_t ino = st_of("a").st_ino;
            char what[64];
            snprintf(what, sizeof(what), "rename of %s over %s", kinds[a], kinds[b]);
            int r = rename("a", "b");
            check_result(r, want, __LINE__, what);
            if (want == 0)
                check(st_of("b").st_ino == ino && st_of("a").st_size == -1, __LINE__, what, "not the same file");
            for (unsigned i = 0; i < 2; i++) {
                const char *name = i ? "b" : "a";
                char sub[8];
                snprintf(sub, sizeof(sub), "%s/x", name);
                unlink(sub);
                if (unlink(name) < 0)
                    rmdir(name);
            }
        }
    OK(mkdir("d", 0755));
    OK(mkdir("d/e", 0755));
    ERR(EINVAL, rename("d", "d/e/f"));
    ERR(EINVAL, rename("d", "d/x"));
    ERR(ENOTEMPTY, rename("d/e", "d"));
    OK(make("f", "f"));
    OK(rename("f", "f"));
    OK(link("f", "g"));
    OK(rename("f", "g")); /* the same file: nothing happens */
    IS(holds("f", "f") && holds("g", "f"));
    OK(rename("f", "d/e/f"));
    IS(holds("d/e/f", "f"));
    OK(rename("d/e", "e"));
    IS(holds("e/f", "f"));
    ERR(ENOENT, rename("f", "d/none/f"));
    ERR(ENOTDIR, rename("g", "e/f/x"));
    ERR(ENAMETOOLONG, rename("g", name256));
    ERR(ENAMETOOLONG, rename(name256, "g"));
    OK(rename("g", name255));
    OK(rename(name255, "g"));
    int fd = open("g", O_RDWR);
    OK(rename("g", "h"));
    IS(write(fd, "HELLO", 5) == 5);
    IS(holds("h", "HELLO"));
    close(fd);
    leave();
}

void test_links(void)
{
    char b[PATH_MAX], big[PATH_MAX + 1];
    enter("links");
    OK(make("f", "x"));
    IS(st_of("f").st_nlink == 1);
    for (unsigned i = 0; i < 5; i++) {
        snprintf(b, 20, "l%u", i);
        OK(link("f", b));
        IS(st_of("f").st_nlink == i + 2);
        IS(st_of(b).st_ino == st_of("f").st_ino);
    }
    OK(make("l3", "changed"));
    IS(holds("f", "changed"));
    OK(unlink("f"));
    IS(st_of("l0").st_nlink == 5);
    ERR(EEXIST, link("l0", "l1"));
    ERR(ENOENT, link("none", "x"));
    OK(mkdir("d", 0755));
    ERR(EPERM, link("d", "x"));
    ERR(ENOTDIR, link("l0/x", "x"));
    ERR(ENAMETOOLONG, link("l0", name256));
    OK(link("l0", "d/l0"));
    IS(holds("d/l0", "changed"));
    static const size_t lengths[] = { 1, 100, 255, 1000, 4094, 4095 };
    for (unsigned i = 0; i < 6; i++) {
        memset(big, 't', lengths[i]);
        big[lengths[i]] = '\0';
        /* What a directory can hold at most differs: ext4 takes 4095, tmpfs a little less. */
        if (symlink(big, "s") < 0) {
            IS(errno == ENAMETOOLONG && lengths[i] > 4000);
            continue;
        }
        IS(readlink("s", b, sizeof(b)) == (ssize_t)lengths[i] && memcmp(b, big, lengths[i]) == 0);
        IS(st_of("s").st_size == (off_t)lengths[i]);
        IS(readlink("s", b, 1) == 1);
        OK(unlink("s"));
    }
    OK(symlink("l0", "s"));
    IS(S_ISLNK(mode_of("s")));
    ERR(EEXIST, symlink("x", "s"));
    ERR(EINVAL, readlink("l0", b, sizeof(b)));
    ERR(ENOENT, readlink("none", b, sizeof(b)));
    ERR(ENOENT, symlink("", "empty"));
    ERR(ENAMETOOLONG, symlink("x", name256));
    IS(holds("s", "changed"));
    OK(symlink("loop2", "loop1"));
    OK(symlink("loop1", "loop2"));
    ERR(ELOOP, open_close("loop1", O_RDONLY, 0));
    ERR(ELOOP, chdir("loop1"));
    OK(symlink("d", "sd"));
    IS(holds("sd/l0", "changed"));
    ERR(ENOTDIR, rmdir("sd"));
    OK(linkat(AT_FDCWD, "s", AT_FDCWD, "hs", 0));
    IS(S_ISLNK(mode_of("hs")));
    IS(st_of("hs").st_nlink == 2);
    leave();
}
