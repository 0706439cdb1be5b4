/* SPDX-License-Identifier: MIT */
/*
 * The gdb stub: server thread and remote serial protocol (gdb manual, "Remote Protocol"). Thread n is vCPU n - 1.
 *
 * While the target is stopped the server holds one machine_pause. Breakpoints of all kinds are points in v->debug,
 * never patched into guest memory, so the guest cannot see or overwrite them.
 */
#include "vm/gdb.h"

#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/lock.h"
#include "base/log.h"
#include "vm/gdb_target.h"
#include "vm/machine.h"

enum { PACKET_MAX = 8192, SIGNAL_INT = 2, SIGNAL_TRAP = 5, SIGNAL_SEGV = 11 };

struct gdb_server {
    struct machine *m;
    int listen_fd, event_fd, fd /* of the client, or -1 */;
    char path[108]; /* of a UNIX socket, to unlink */
    pthread_t thread;
    bool started;
    bool no_ack, running, closing;
    unsigned cpu;     /* selected by H and by stops */
    struct lock lock; /* the stop that a vCPU reported */
    bool stop_due;
    unsigned stop_cpu;
    struct vcpu_exit stop;
    size_t in_len;
    char in[PACKET_MAX + 8];
    char out[PACKET_MAX * 2 + 8];
};

/* ---- wire ---- */

static bool send_all(struct gdb_server *g, const char *p, size_t n)
{
    while (n) {
        ssize_t k = send(g->fd, p, n, MSG_NOSIGNAL);
        if (k <= 0 && errno != EINTR)
            return false;
        if (k > 0) {
            p += k;
            n -= (size_t)k;
        }
    }
    return true;
}

static void reply(struct gdb_server *g, const char *text)
{
    uint8_t sum = 0;
    size_t n = strlen(text);
    char tail[4];
    for (size_t i = 0; i < n; i++)
        sum = (uint8_t)(sum + (uint8_t)text[i]);
    snprintf(tail, sizeof(tail), "#%02x", sum);
    if (!send_all(g, "$", 1) || !send_all(g, text, n) || !send_all(g, tail, 3))
        g->closing = true;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static char *put_hex(char *out, const uint8_t *p, size_t n)
{
    static const char digit[] = "0123456789abcdef";
    for (size_t i = 0; i < n; i++) {
        *out++ = digit[p[i] >> 4];
        *out++ = digit[p[i] & 15];
    }
    *out = '\0';
    return out;
}

/* Reads n bytes as hex; false if the text ends before or is not hex. */
static bool get_hex(const char **s, uint8_t *p, size_t n)
{
    for (size_t i = 0; i < n; i++, *s += 2) {
        int a = hex_digit((*s)[0]);
        int b = a < 0 ? -1 : hex_digit((*s)[1]);
        if (b < 0)
            return false;
        p[i] = (uint8_t)(a << 4 | b);
    }
    return true;
}

/* A hex number followed by `end`; moves past it. */
static bool get_num(const char **s, char end, uint64_t *v)
{
    char *e;
    *v = strtoull(*s, &e, 16);
    if (e == *s || *e != end)
        return false;
    *s = end ? e + 1 : e;
    return true;
}

/* ---- stops ---- */

static void on_stop(void *arg, unsigned cpu, const struct vcpu_exit *x)
{
    struct gdb_server *g = arg;
    uint64_t one = 1;
    lock_take(&g->lock);
    if (!g->stop_due) {
        g->stop_due = true;
        g->stop_cpu = cpu;
        g->stop = *x;
    }
    lock_drop(&g->lock);
    ssize_t r = write(g->event_fd, &one, sizeof(one));
    (void)r;
}

static const char *watch_kind(struct gdb_server *g, gva_t addr)
{
    const struct vcpu_debug *d = &machine_vcpu(g->m, g->cpu)->debug;
    for (unsigned i = 0; i < d->n; i++) {
        if (d->point[i].kind == POINT_EXEC || addr < d->point[i].addr || addr >= d->point[i].addr + d->point[i].len)
            continue;
        return d->point[i].kind == POINT_WRITE ? "watch" : d->point[i].kind == POINT_READ ? "rwatch" : "awatch";
    }
    return "awatch";
}

static void reply_stop(struct gdb_server *g, int sig, const struct vcpu_exit *x)
{
    char text[128];
    int n = snprintf(text, sizeof(text), "T%02xthread:%x;", sig, g->cpu + 1);
    if (x && x->kind == EXIT_DEBUG && x->debug.reason == DEBUG_WATCH)
        snprintf(text + n, sizeof(text) - (size_t)n, "%s:%lx;", watch_kind(g, x->debug.addr), x->debug.addr);
    reply(g, text);
}

/* Brings every vCPU to a halt after one has reported; the server then holds one pause. */
static void take_stop(struct gdb_server *g, bool holding)
{
    uint64_t n;
    struct vcpu_exit x;
    ssize_t r = read(g->event_fd, &n, sizeof(n));
    (void)r;
    machine_pause(g->m);
    if (holding)
        machine_resume(g->m); /* a step kept its pause: this one was only for waiting */
    lock_take(&g->lock);
    g->stop_due = false;
    g->cpu = g->stop_cpu;
    x = g->stop;
    lock_drop(&g->lock);
    g->running = false;
    reply_stop(g, x.kind == EXIT_SHUTDOWN ? SIGNAL_SEGV : SIGNAL_TRAP, &x);
}

static void set_step(struct gdb_server *g, unsigned cpu, bool on)
{
    struct vcpu *v = machine_vcpu(g->m, cpu);
    if (v->debug.step == on)
        return;
    v->debug.step = on;
    machine_vcpu_changed(g->m, cpu);
}

static void go(struct gdb_server *g)
{
    for (unsigned i = 0; i < machine_cpu_count(g->m); i++)
        set_step(g, i, false);
    g->running = true;
    machine_resume(g->m);
}

/* True when the connection brought an interrupt or broke while we waited. */
static bool client_spoke(struct gdb_server *g)
{
    char c;
    ssize_t n = recv(g->fd, &c, 1, 0);
    if (n <= 0)
        g->closing = true;
    return n <= 0 || c == 3;
}

/* Steps one vCPU; the others stay where they are. */
static void step(struct gdb_server *g, unsigned cpu)
{
    struct pollfd p[2] = { { .fd = g->event_fd, .events = POLLIN }, { .fd = g->fd, .events = POLLIN } };
    set_step(g, cpu, true);
    machine_step(g->m, cpu);
    for (;;) {
        poll(p, 2, -1);
        if (p[0].revents) {
            take_stop(g, true);
            break;
        }
        if (p[1].revents && client_spoke(g)) { /* e.g. a step into HLT that nothing ends */
            machine_pause(g->m);
            machine_resume(g->m);
            if (!g->closing)
                reply_stop(g, SIGNAL_INT, NULL);
            break;
        }
    }
    set_step(g, cpu, false);
}

/* ---- packets ---- */

static void cmd_regs_read(struct gdb_server *g)
{
    uint8_t buf[GDB_REG_MAX_BYTES];
    char *o = g->out;
    for (unsigned i = 0; i < gdb_reg_count(); i++) {
        gdb_reg_read(machine_vcpu(g->m, g->cpu)->cpu, i, buf);
        o = put_hex(o, buf, gdb_reg_size(i));
    }
    reply(g, g->out);
}

static void cmd_regs_write(struct gdb_server *g, const char *s)
{
    uint8_t buf[GDB_REG_MAX_BYTES];
    for (unsigned i = 0; i < gdb_reg_count() && get_hex(&s, buf, gdb_reg_size(i)); i++)
        gdb_reg_write(machine_vcpu(g->m, g->cpu)->cpu, i, buf);
    machine_vcpu_changed(g->m, g->cpu);
    reply(g, "OK");
}

static void cmd_reg(struct gdb_server *g, const char *s, bool write)
{
    uint8_t buf[GDB_REG_MAX_BYTES];
    uint64_t n;
    if (!get_num(&s, write ? '=' : '\0', &n) || n >= gdb_reg_count()) {
        reply(g, "E01");
    } else if (write) {
        if (!get_hex(&s, buf, gdb_reg_size((unsigned)n))) {
            reply(g, "E01");
            return;
        }
        gdb_reg_write(machine_vcpu(g->m, g->cpu)->cpu, (unsigned)n, buf);
        machine_vcpu_changed(g->m, g->cpu);
        reply(g, "OK");
    } else {
        gdb_reg_read(machine_vcpu(g->m, g->cpu)->cpu, (unsigned)n, buf);
        put_hex(g->out, buf, gdb_reg_size((unsigned)n));
        reply(g, g->out);
    }
}

static void cmd_mem(struct gdb_server *g, const char *s, bool write)
{
    static _Thread_local uint8_t buf[PACKET_MAX / 2];
    const struct cpu_state *c = machine_vcpu(g->m, g->cpu)->cpu;
    uint64_t addr, len;
    if (!get_num(&s, ',', &addr) || !get_num(&s, write ? ':' : '\0', &len) || len > sizeof(buf)) {
        reply(g, "E01");
    } else if (write) {
        bool ok = get_hex(&s, buf, len) && gdb_mem_write(c, machine_mem(g->m), addr, buf, (unsigned)len) == 0;
        reply(g, ok ? "OK" : "E14");
    } else if (gdb_mem_read(c, machine_mem(g->m), addr, buf, (unsigned)len) < 0) {
        reply(g, "E14");
    } else {
        put_hex(g->out, buf, len);
        reply(g, g->out);
    }
}

/* Z0 and Z1 are the same to us; see the head of the file. */
static void cmd_point(struct gdb_server *g, const char *s, bool set)
{
    static const enum debug_point_kind kinds[] = { POINT_EXEC, POINT_EXEC, POINT_WRITE, POINT_READ, POINT_ACCESS };
    uint64_t type, addr, len;
    if (!get_num(&s, ',', &type) || type >= ARRAY_LEN(kinds) || !get_num(&s, ',', &addr)) {
        reply(g, type >= ARRAY_LEN(kinds) ? "" : "E01");
        return;
    }
    len = strtoull(s, NULL, 16);
    for (unsigned i = 0; i < machine_cpu_count(g->m); i++) {
        struct vcpu_debug *d = &machine_vcpu(g->m, i)->debug;
        unsigned k = 0;
        while (k < d->n && (d->point[k].kind != kinds[type] || d->point[k].addr != addr))
            k++;
        if (set && k == DEBUG_POINTS) {
            reply(g, "E1c");
            return;
        }
        if (set) {
            d->point[k].kind = kinds[type];
            d->point[k].addr = addr;
            d->point[k].len = kinds[type] == POINT_EXEC ? 1 : (uint32_t)len;
            if (k == d->n)
                d->n++;
        } else if (k < d->n) {
            d->point[k] = d->point[--d->n];
        }
        machine_vcpu_changed(g->m, i);
    }
    reply(g, "OK");
}

static bool parse_thread(struct gdb_server *g, const char *s, unsigned *cpu)
{
    long n = strtol(s, NULL, 16);
    if (n <= 0) { /* -1 all, 0 any: the current one */
        *cpu = g->cpu;
        return true;
    }
    if ((unsigned long)n > machine_cpu_count(g->m))
        return false;
    *cpu = (unsigned)n - 1;
    return true;
}

/* vCont;ACTION[:THREAD]...: a step for one thread, else everything goes on. */
static void cmd_vcont(struct gdb_server *g, const char *s)
{
    unsigned cpu = g->cpu;
    while (*s == ';') {
        s++;
        const char *colon = strchr(s, ':');
        const char *next = strchr(s, ';');
        if (!next)
            next = strchr(s, '\0');
        if (*s == 's' || *s == 'S') {
            if (colon && colon < next && !parse_thread(g, colon + 1, &cpu)) {
                reply(g, "E01");
                return;
            }
            step(g, cpu);
            return;
        }
        s = next;
    }
    go(g);
}

static void cmd_threads(struct gdb_server *g)
{
    char *o = g->out;
    *o++ = 'm';
    for (unsigned i = 0; i < machine_cpu_count(g->m); i++)
        o += sprintf(o, "%s%x", i ? "," : "", i + 1);
    reply(g, g->out);
}

static void cmd_xfer_features(struct gdb_server *g, const char *s)
{
    uint64_t off, len;
    size_t total = strlen(gdb_target_xml);
    if (strncmp(s, "target.xml:", 11) != 0) {
        reply(g, "E00");
        return;
    }
    s += 11;
    if (!get_num(&s, ',', &off) || !get_num(&s, '\0', &len) || off > total) {
        reply(g, "E01");
        return;
    }
    if (len > PACKET_MAX / 2)
        len = PACKET_MAX / 2;
    size_t n = total - off < len ? total - off : len;
    g->out[0] = n == total - off ? 'l' : 'm';
    memcpy(g->out + 1, gdb_target_xml + off, n);
    g->out[1 + n] = '\0';
    reply(g, g->out);
}

static void cmd_thread_extra(struct gdb_server *g, const char *s)
{
    char text[64];
    unsigned cpu;
    if (!parse_thread(g, s, &cpu)) {
        reply(g, "E01");
        return;
    }
    int n = snprintf(text, sizeof(text), "vCPU %u%s", cpu, machine_vcpu_offline(g->m, cpu) ? " (waits for SIPI)" : "");
    put_hex(g->out, (const uint8_t *)text, (size_t)n);
    reply(g, g->out);
}

static void cmd_query(struct gdb_server *g, const char *s)
{
    char text[128];
    if (strncmp(s, "qSupported", 10) == 0) {
        snprintf(text, sizeof(text), "PacketSize=%x;QStartNoAckMode+;qXfer:features:read+;vContSupported+;hwbreak+",
                 PACKET_MAX);
        reply(g, text);
    } else if (strncmp(s, "qXfer:features:read:", 20) == 0) {
        cmd_xfer_features(g, s + 20);
    } else if (strcmp(s, "qfThreadInfo") == 0) {
        cmd_threads(g);
    } else if (strcmp(s, "qsThreadInfo") == 0) {
        reply(g, "l");
    } else if (strncmp(s, "qThreadExtraInfo,", 17) == 0) {
        cmd_thread_extra(g, s + 17);
    } else if (strcmp(s, "qC") == 0) {
        snprintf(text, sizeof(text), "QC%x", g->cpu + 1);
        reply(g, text);
    } else if (strncmp(s, "qAttached", 9) == 0) {
        reply(g, "1");
    } else if (strcmp(s, "QStartNoAckMode") == 0) {
        reply(g, "OK");
        g->no_ack = true;
    } else {
        reply(g, "");
    }
}

static void detach(struct gdb_server *g)
{
    for (unsigned i = 0; i < machine_cpu_count(g->m); i++) {
        machine_vcpu(g->m, i)->debug = (struct vcpu_debug){ 0 };
        machine_vcpu_changed(g->m, i);
    }
}

static void handle_packet(struct gdb_server *g, const char *s)
{
    unsigned cpu;
    switch (s[0]) {
    case '?':
        reply_stop(g, SIGNAL_TRAP, NULL);
        break;
    case 'g':
        cmd_regs_read(g);
        break;
    case 'G':
        cmd_regs_write(g, s + 1);
        break;
    case 'p':
        cmd_reg(g, s + 1, false);
        break;
    case 'P':
        cmd_reg(g, s + 1, true);
        break;
    case 'm':
        cmd_mem(g, s + 1, false);
        break;
    case 'M':
        cmd_mem(g, s + 1, true);
        break;
    case 'Z':
    case 'z':
        cmd_point(g, s + 1, s[0] == 'Z');
        break;
    case 'c':
        go(g);
        break;
    case 's':
        step(g, g->cpu);
        break;
    case 'v':
        if (strcmp(s, "vCont?") == 0)
            reply(g, "vCont;c;C;s;S");
        else if (strncmp(s, "vCont;", 6) == 0)
            cmd_vcont(g, s + 5);
        else
            reply(g, "");
        break;
    case 'H':
    case 'T':
        if (parse_thread(g, s + (s[0] == 'H' ? 2 : 1), &cpu)) {
            if (s[0] == 'H' && s[1] == 'g')
                g->cpu = cpu;
            reply(g, "OK");
        } else {
            reply(g, "E01");
        }
        break;
    case 'q':
    case 'Q':
        cmd_query(g, s);
        break;
    case 'D':
        reply(g, "OK");
        g->closing = true;
        break;
    case 'k':
        g->closing = true;
        machine_quit(g->m, 0);
        break;
    default:
        reply(g, "");
    }
}

/* Takes one whole packet or interrupt character out of the input; false when there is none. */
static bool next_packet(struct gdb_server *g, char *out)
{
    while (g->in_len) {
        size_t used = 1;
        bool got = false;
        if (g->in[0] == '$') {
            char *hash = memchr(g->in, '#', g->in_len);
            if (!hash || hash + 3 > g->in + g->in_len) {
                if (g->in_len >= PACKET_MAX)
                    g->closing = true;
                return false;
            }
            size_t n = (size_t)(hash - g->in) - 1;
            memcpy(out, g->in + 1, n);
            out[n] = '\0';
            used = n + 4;
            got = true;
            if (!g->no_ack && !send_all(g, "+", 1))
                g->closing = true;
        } else if (g->in[0] == 3 && g->running) {
            machine_pause(g->m);
            g->running = false;
            reply_stop(g, SIGNAL_INT, NULL);
        }
        memmove(g->in, g->in + used, g->in_len - used);
        g->in_len -= used;
        if (got)
            return true;
    }
    return false;
}

static void session(struct gdb_server *g)
{
    static _Thread_local char packet[PACKET_MAX + 8];
    g->closing = g->no_ack = false;
    g->in_len = 0;
    while (!g->closing) {
        struct pollfd p[3] = { { .fd = g->fd, .events = POLLIN },
                               { .fd = g->running ? g->event_fd : -1, .events = POLLIN },
                               { .fd = g->listen_fd, .events = 0 } };
        poll(p, 3, -1);
        if (p[2].revents & (POLLHUP | POLLNVAL | POLLERR))
            break; /* gdb_stop shut the listener down */
        if (p[1].revents)
            take_stop(g, false);
        if (!p[0].revents)
            continue;
        ssize_t n = recv(g->fd, g->in + g->in_len, PACKET_MAX - g->in_len, 0);
        if (n <= 0)
            break;
        g->in_len += (size_t)n;
        while (!g->closing && next_packet(g, packet))
            if (!g->running)
                handle_packet(g, packet);
    }
    if (g->running)
        machine_pause(g->m);
    detach(g);
    g->running = true;
    machine_resume(g->m);
}

static void *server_main(void *arg)
{
    struct gdb_server *g = arg;
    for (;;) {
        g->fd = accept4(g->listen_fd, NULL, NULL, SOCK_CLOEXEC);
        if (g->fd < 0 && (errno == EINTR || errno == ECONNABORTED))
            continue;
        if (g->fd < 0)
            break;
        if (g->running) {
            machine_pause(g->m);
            g->running = false;
        }
        machine_set_debugger(g->m, on_stop, g);
        session(g);
        machine_set_debugger(g->m, NULL, NULL);
        close(g->fd);
    }
    return NULL;
}

/* ---- life ---- */

static int listen_tcp(const char *port, struct err *e)
{
    char *end;
    unsigned long n = strtoul(port, &end, 10);
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int one = 1;
    if (end == port || *end || n > 65535)
        return err_set(e, EINVAL, "--gdb: \"%s\" is not a port number", port);
    a.sin_port = htons((uint16_t)n);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(e, errno, "--gdb: socket: %s", strerror(errno));
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0) {
        int code = errno;
        close(fd);
        return err_set(e, code, "--gdb: cannot listen on port %s: %s", port, strerror(code));
    }
    return fd;
}

static int listen_unix(const char *path, struct err *e)
{
    struct sockaddr_un a = { .sun_family = AF_UNIX };
    if (!*path) /* it would be bound to a name that the kernel makes up */
        return err_set(e, EINVAL, "--gdb: the file name after unix: is empty");
    if (strlen(path) >= sizeof(a.sun_path))
        return err_set(e, EINVAL, "--gdb: socket path longer than %zu bytes", sizeof(a.sun_path) - 1);
    strcpy(a.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 1) < 0) {
        int code = errno;
        if (fd >= 0)
            close(fd);
        return err_set(e, code, "--gdb: cannot listen at %.300s: %s", path, strerror(code));
    }
    return fd;
}

struct gdb_server *gdb_start(struct machine *m, const char *where, struct err *e)
{
    struct gdb_server *g = calloc(1, sizeof(*g));
    if (!g) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    g->m = m;
    lock_init(&g->lock, LOCK_CHARDEV);
    if (strncmp(where, "unix:", 5) == 0) {
        g->listen_fd = listen_unix(where + 5, e);
        snprintf(g->path, sizeof(g->path), "%s", where + 5);
    } else if (where[0] == ':') {
        g->listen_fd = listen_tcp(where + 1, e);
    } else {
        g->listen_fd = err_set(e, EINVAL, "--gdb: \"%s\" must be :PORT or unix:FILE", where);
    }
    if (g->listen_fd < 0)
        goto undo_alloc;
    g->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (g->event_fd < 0) {
        err_set(e, errno, "eventfd: %s", strerror(errno));
        goto undo_listen;
    }
    machine_pause(m);
    int r = pthread_create(&g->thread, NULL, server_main, g);
    if (r == 0)
        return g;
    err_set(e, r, "cannot start the debugger's thread: %s", strerror(r));
    close(g->event_fd);
undo_listen:
    close(g->listen_fd);
undo_alloc:
    lock_destroy(&g->lock);
    free(g);
    return NULL;
}

void gdb_stop(struct gdb_server *g)
{
    if (!g)
        return;
    shutdown(g->listen_fd, SHUT_RDWR); /* ends accept and session */
    pthread_join(g->thread, NULL);
    close(g->listen_fd);
    close(g->event_fd);
    if (g->path[0])
        unlink(g->path);
    lock_destroy(&g->lock);
    free(g);
}
