/* SPDX-License-Identifier: MIT */
/*
 * Reading files that a user names. They are read, never mapped: a mapped file that somebody truncates kills the
 * process. FIFOs and devices are refused before anything can block.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vm/boot/internal.h"

enum { FILE_CHUNK = 256 * 1024 };

void boot_bytes_free(struct boot_bytes *b)
{
    free(b->p);
    *b = (struct boot_bytes){ 0 };
}

static const char *file_type(mode_t mode)
{
    return S_ISDIR(mode)    ? "a directory"
           : S_ISFIFO(mode) ? "a FIFO"
           : S_ISCHR(mode)  ? "a character device"
           : S_ISBLK(mode)  ? "a block device"
           : S_ISSOCK(mode) ? "a socket"
                            : "not a regular file";
}

int boot_file_open(struct boot_file *f, const char *what, uint64_t max, struct err *e)
{
    const char *path = f->path;
    /* O_NONBLOCK: opening a FIFO must not wait for a writer. It means nothing for regular files. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    if (fd < 0) {
        int code = errno;
        return err_set(e, code, "cannot open %s '%.200s': %s", what, path, strerror(code));
    }
    struct stat st;
    int r = 0;
    if (fstat(fd, &st) < 0) {
        int code = errno;
        r = err_set(e, code, "cannot examine %s '%.200s': %s", what, path, strerror(code));
    } else if (!S_ISREG(st.st_mode)) {
        r = err_set(e, EINVAL, "%s '%.200s' is %s; a regular file is needed", what, path, file_type(st.st_mode));
    } else if (st.st_size <= 0) {
        r = err_set(e, EINVAL, "%s '%.200s' is empty", what, path);
    } else if ((uint64_t)st.st_size > max) {
        r = err_set(e, EFBIG, "%s '%.200s' has %lld bytes; at most %llu fit into this guest", what, path,
                    (long long)st.st_size, (unsigned long long)max);
    }
    if (r < 0) {
        close(fd);
        return r;
    }
    f->fd = fd;
    f->len = (uint64_t)st.st_size;
    return 0;
}

/* Reads exactly len bytes. The file may change under us; a short read is an error, never a wait. */
static int file_read_all(int fd, const char *path, uint8_t *p, size_t len, struct err *e)
{
    while (len) {
        ssize_t n = read(fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            int code = errno;
            return err_set(e, code, "cannot read '%.200s': %s", path, strerror(code));
        }
        if (n == 0)
            return err_set(e, EIO, "'%.200s' became shorter while it was being read", path);
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int boot_file_read(const char *path, const char *what, uint64_t max, struct boot_bytes *out, struct err *e)
{
    struct boot_file f = { .path = path };
    int r = boot_file_open(&f, what, max, e);
    if (r < 0)
        return r;
    uint8_t *p = malloc(f.len);
    r = p ? file_read_all(f.fd, path, p, f.len, e)
          : err_set(e, ENOMEM, "no memory for %s '%.200s' (%llu bytes)", what, path, (unsigned long long)f.len);
    close(f.fd);
    if (r < 0) {
        free(p);
        return r;
    }
    *out = (struct boot_bytes){ p, f.len };
    return 0;
}

int boot_file_to_mem(struct boot *b, const struct boot_file *f, gpa_t gpa, struct err *e)
{
    uint8_t *chunk = malloc(FILE_CHUNK);
    if (!chunk)
        return err_set(e, ENOMEM, "no memory to read '%.200s'", f->path);
    int r = 0;
    for (uint64_t done = 0, n; done < f->len && r == 0; done += n) {
        n = f->len - done < FILE_CHUNK ? f->len - done : FILE_CHUNK;
        r = file_read_all(f->fd, f->path, chunk, n, e);
        if (r == 0)
            r = boot_put(b, gpa + done, chunk, n, e);
    }
    free(chunk);
    return r;
}
