/* SPDX-License-Identifier: MIT */
#include "host/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Newer than the headers of some systems that we build on. */
#ifndef UFFD_USER_MODE_ONLY
#define UFFD_USER_MODE_ONLY 1
#endif
#ifndef UFFD_FEATURE_WP_HUGETLBFS_SHMEM
#define UFFD_FEATURE_WP_HUGETLBFS_SHMEM (1 << 12)
#endif

int uffd_open(void)
{
    struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_WP_HUGETLBFS_SHMEM };
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

    if (fd < 0)
        return -errno;
    if (ioctl(fd, UFFDIO_API, &api)) {
        int err = -errno;
        close(fd);
        return err;
    }
    return fd;
}

int uffd_register(int fd, uintptr_t at, size_t len)
{
    struct uffdio_register r = { .range = { .start = at, .len = len }, .mode = UFFDIO_REGISTER_MODE_WP };

    return ioctl(fd, UFFDIO_REGISTER, &r) ? -errno : 0;
}

int uffd_protect(int fd, uintptr_t at, size_t len, bool on)
{
    struct uffdio_writeprotect w = { .range = { .start = at, .len = len },
                                     .mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0 };

    return ioctl(fd, UFFDIO_WRITEPROTECT, &w) ? -errno : 0;
}
