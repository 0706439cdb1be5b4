/* SPDX-License-Identifier: MIT */
/*
 * --net tap: a TAP device of the host (Linux, Documentation/networking/tuntap). The kernel speaks virtio-net headers
 * itself, so frames pass with nothing done to them; it is told what the guest takes.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "host/net_thread.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

enum { RX_BATCH = 64 };

struct net_tap {
    struct net_thread t; /* first */
    int fd, polled;
    unsigned guest; /* as the kernel was told */
    size_t held;    /* bytes of the frame that the guest had no room for */
    struct net_hdr hdr;
    uint8_t frame[NET_FRAME_MAX];
};

static int set_offloads(int fd, unsigned guest)
{
    unsigned f = guest & NET_CSUM ? TUN_F_CSUM : 0;
    f |= guest & NET_TSO4 ? TUN_F_TSO4 : 0;
    f |= guest & NET_TSO6 ? TUN_F_TSO6 : 0;
    f |= guest & NET_ECN ? TUN_F_TSO_ECN : 0;
    unsigned uso = guest & NET_USO ? TUN_F_USO4 | TUN_F_USO6 : 0;
    if (uso && ioctl(fd, TUNSETOFFLOAD, f | uso) == 0)
        return 0;
    return ioctl(fd, TUNSETOFFLOAD, f); /* before Linux 6.2 */
}

static void tap_prepare(struct net_thread *t, int *timeout_ms)
{
    struct net_tap *k = (struct net_tap *)t;
    unsigned guest = net_thread_guest(t);
    short events = (short)((k->held ? 0 : POLLIN) | (t->len ? POLLOUT : 0));
    (void)timeout_ms;
    if (guest != k->guest)
        set_offloads(k->fd, guest);
    k->guest = guest;
    k->polled = events ? net_thread_poll(t, k->fd, events) : -1;
}

static bool deliver(struct net_tap *k)
{
    if (k->held && !k->t.user.rx(k->t.user.arg, &k->hdr, k->frame, k->held))
        return false;
    k->held = 0;
    return true;
}

static bool tap_ready(struct net_thread *t)
{
    struct net_tap *k = (struct net_tap *)t;
    const struct iovec v[2] = { { &k->hdr, sizeof(k->hdr) }, { k->frame, sizeof(k->frame) } };
    bool was_held = k->held != 0;
    if (!deliver(k))
        return false;
    if (!was_held && !(net_thread_revents(t, k->polled) & POLLIN))
        return false;
    for (int i = 0; i < RX_BATCH; i++) {
        ssize_t n = readv(k->fd, v, 2);
        if (n <= (ssize_t)sizeof(k->hdr))
            return false;
        k->held = (size_t)n - sizeof(k->hdr);
        if (!deliver(k))
            return false;
    }
    return true;
}

static bool tap_send(struct net_thread *t)
{
    const struct net_tap *k = (struct net_tap *)t;
    const struct iovec v[2] = { { &t->hdr, sizeof(t->hdr) }, { t->frame, t->len } };
    return writev(k->fd, v, 2) >= 0 || errno != EAGAIN; /* other errors, such as an interface that is down: lost */
}

static void tap_fini(struct net_thread *t)
{
    struct net_tap *k = (struct net_tap *)t;
    if (k->fd >= 0)
        close(k->fd);
    net_thread_fini(t);
    free(k);
}

/* ---- opening ---- */

static int explain(const char *name, int code, struct err *e)
{
    switch (code) {
    case EPERM:
    case EACCES:
        return err_set(e, code,
                       "--net tap: not permitted to use the TAP device '%s'; as root: ip tuntap add dev %s mode tap "
                       "vnet_hdr user %u",
                       name, name, (unsigned)geteuid());
    case EBUSY:
        return err_set(e, code, "--net tap: another process uses the TAP device '%s'", name);
    case EINVAL:
        return err_set(e, code, "--net tap: the interface '%s' exists and is no TAP device with vnet_hdr", name);
    default:
        return err_set(e, code, "--net tap: cannot use the TAP device '%s': %s", name, strerror(code));
    }
}

static int open_name(const char *name, struct err *e)
{
    struct ifreq r = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR };
    if (strlen(name) >= sizeof(r.ifr_name))
        return err_set(e, EINVAL, "--net tap: the name '%.40s' is longer than %zu bytes", name, sizeof(r.ifr_name) - 1);
    strcpy(r.ifr_name, name);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && (errno == ENOENT || errno == ENODEV || errno == ENXIO))
        return err_set(e, errno, "--net tap: this host has no /dev/net/tun; as root: modprobe tun");
    if (fd < 0)
        return err_set(e, errno, "--net tap: cannot open /dev/net/tun: %s", strerror(errno));
    if (ioctl(fd, TUNSETIFF, &r) < 0) {
        int code = errno;
        close(fd);
        return explain(name, code, e);
    }
    return fd;
}

static int open_fd(const char *text, struct err *e)
{
    struct ifreq r = { 0 };
    char *end;
    long fd = strtol(text, &end, 10);
    if (end == text || *end || fd < 0 || fd > 1 << 20 || ioctl((int)fd, TUNGETIFF, &r) < 0)
        return err_set(e, EINVAL, "--net tap: fd: \"%s\" is not the descriptor of a TAP device", text);
    if ((r.ifr_flags & (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)) != (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        return err_set(e, EINVAL, "--net tap: fd: descriptor %ld must have IFF_TAP, IFF_NO_PI and IFF_VNET_HDR", fd);
    fcntl((int)fd, F_SETFD, FD_CLOEXEC);
    fcntl((int)fd, F_SETFL, O_RDWR | O_NONBLOCK);
    return (int)fd;
}

/* NAME, ifname=NAME or fd=N: the descriptor or -errno. */
static int open_tap(char *options, struct err *e)
{
    char *key, *value;
    const char *name = NULL, *fd = NULL;
    while (net_next_option(&options, &key, &value)) {
        if (!value)
            name = key;
        else if (strcmp(key, "ifname") == 0)
            name = value;
        else if (strcmp(key, "fd") == 0)
            fd = value;
        else
            return err_set(e, EINVAL,
                           "--net tap: unknown option \"%s\"; it takes ifname, fd, mac, mtu, dump and limits", key);
    }
    if (!name == !fd)
        return err_set(e, EINVAL, "--net tap needs a name or a descriptor: tap=NAME or tap,fd=N");
    return fd ? open_fd(fd, e) : open_name(name, e);
}

struct net *net_tap_open(char *options, struct err *e)
{
    static const struct net_kind kind = {
        .prepare = tap_prepare, .ready = tap_ready, .send = tap_send, .fini = tap_fini
    };
    const int hdr = sizeof(struct net_hdr);
    int fd = open_tap(options, e);
    if (fd < 0)
        return NULL;
    struct net_tap *k = calloc(1, sizeof(*k));
    if (!k || net_thread_init(&k->t, &kind) < 0) {
        err_set(e, ENOMEM, "out of memory for a network device");
        free(k);
        close(fd);
        return NULL;
    }
    k->fd = fd;
    if (ioctl(fd, TUNSETVNETHDRSZ, &hdr) < 0 || set_offloads(fd, 0) < 0) {
        err_set(e, errno, "--net tap: the kernel does not offer virtio-net headers: %s", strerror(errno));
        tap_fini(&k->t);
        return NULL;
    }
    /* What the kernel takes from us is what any virtio-net header can say. */
    k->t.net.offloads = NET_CSUM | NET_TSO4 | NET_TSO6 | NET_ECN;
    return &k->t.net;
}
