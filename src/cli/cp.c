/* SPDX-License-Identifier: MIT */
/*
 * gazda cp: one file into a running guest or out of it, through its agent. A local file appears whole or not at all; in
 * the guest a copy that fails leaves what was written.
 */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base64.h"
#include "base/types.h"
#include "cli/agent.h"
#include "cli/cli.h"

enum { CHUNK = 384 << 10 };

/* ---- files of the guest ---- */

static int guest_open(struct client *c, const char *path, const char *mode, json_int_t *handle, struct err *e)
{
    json_t *args = json_object(), *ret = NULL;
    json_object_set_new(args, "path", json_string(path));
    json_object_set_new(args, "mode", json_string(mode));
    int r = agent_do(c, "guest-file-open", args, &ret, e);
    if (r == 0 && !json_is_integer(ret))
        r = err_set(e, EPROTO, "the guest agent's answer makes no sense: no file handle");
    if (r == 0)
        *handle = json_integer_value(ret);
    json_decref(ret);
    return r;
}

static int guest_close(struct client *c, json_int_t handle, struct err *e)
{
    json_t *args = json_object();
    json_object_set_new(args, "handle", json_integer(handle));
    return agent_do(c, "guest-file-close", args, NULL, e);
}

struct piece {
    uint8_t *data; /* malloc'ed */
    size_t n;
    bool end; /* of the file */
};

/* Up to CHUNK bytes. */
static int guest_read(struct client *c, json_int_t handle, struct piece *p, struct err *e)
{
    json_t *args = json_object(), *ret = NULL;
    json_object_set_new(args, "handle", json_integer(handle));
    json_object_set_new(args, "count", json_integer(CHUNK));
    int r = agent_do(c, "guest-file-read", args, &ret, e);
    if (r < 0)
        return r;
    const char *text = json_string_value(json_object_get(ret, "buf-b64"));
    p->data = text ? base64_decode(text, &p->n) : NULL;
    p->end = json_is_true(json_object_get(ret, "eof"));
    json_decref(ret);
    if (!p->data || (p->n == 0 && !p->end)) {
        free(p->data);
        return err_set(e, EPROTO, "the guest agent's answer makes no sense: no data");
    }
    return 0;
}

static int guest_write(struct client *c, json_int_t handle, const uint8_t *data, size_t n, struct err *e)
{
    while (n) {
        json_t *args = json_object(), *ret = NULL;
        char *text = base64_encode(data, n);
        json_object_set_new(args, "handle", json_integer(handle));
        json_object_set_new(args, "buf-b64", json_string(text));
        free(text);
        int r = agent_do(c, "guest-file-write", args, &ret, e);
        if (r < 0)
            return r;
        json_int_t k = json_integer_value(json_object_get(ret, "count"));
        json_decref(ret);
        if (k <= 0 || (size_t)k > n)
            return err_set(e, EIO, "the guest wrote nothing");
        data += k;
        n -= (size_t)k;
    }
    return 0;
}

/* ---- both ways ---- */

static int pull(struct client *c, json_int_t handle, int fd, const char *path, struct err *e)
{
    for (struct piece p = { 0 }; !p.end;) {
        size_t at = 0;
        int r = guest_read(c, handle, &p, e);
        if (r < 0)
            return r;
        while (at < p.n) {
            ssize_t k = write(fd, p.data + at, p.n - at);
            if (k < 0 && errno != EINTR) {
                free(p.data);
                return err_set(e, errno, "cannot write '%.300s': %s", path, strerror(errno));
            }
            at += k > 0 ? (size_t)k : 0;
        }
        free(p.data);
    }
    return 0;
}

static int push(struct client *c, json_int_t handle, int fd, const char *path, struct err *e)
{
    uint8_t *buf = malloc(CHUNK);
    int r = buf ? 0 : err_set(e, ENOMEM, "out of memory");
    while (r == 0) {
        ssize_t n = read(fd, buf, CHUNK);
        if (n == 0)
            break;
        if (n > 0)
            r = guest_write(c, handle, buf, (size_t)n, e);
        else if (errno != EINTR)
            r = err_set(e, errno, "cannot read '%.300s': %s", path, strerror(errno));
    }
    free(buf);
    return r;
}

/* DIR/NAME if path is a folder (or ends with a slash), else path; malloc'ed. */
static char *target(const char *path, bool is_dir, const char *source)
{
    char *copy = strdup(source), *out = NULL;
    size_t n = strlen(path);
    bool slash = n && path[n - 1] == '/';
    if (!copy || asprintf(&out, "%s%s%s", path, is_dir && !slash ? "/" : "", is_dir || slash ? basename(copy) : "") < 0)
        out = NULL;
    free(copy);
    return out;
}

static int from_guest(struct client *c, const char *guest, const char *local, struct err *e)
{
    struct stat st;
    json_int_t handle;
    bool std = strcmp(local, "-") == 0;
    char *path = target(local, !std && stat(local, &st) == 0 && S_ISDIR(st.st_mode), guest), *tmp = NULL;
    /* A device or a pipe is written to; a file is replaced when all is there. */
    bool direct = std || (path && stat(path, &st) == 0 && !S_ISREG(st.st_mode));
    if (!path || asprintf(&tmp, "%s%s", path, direct ? "" : ".XXXXXX") < 0) {
        free(path);
        return err_set(e, ENOMEM, "out of memory");
    }
    int r = guest_open(c, guest, "r", &handle, e);
    if (r < 0)
        goto out;
    int fd = std ? dup(STDOUT_FILENO) : direct ? open(tmp, O_WRONLY | O_CLOEXEC) : mkostemp(tmp, O_CLOEXEC);
    if (fd < 0) {
        r = err_set(e, errno, "cannot write '%.300s': %s", path, strerror(errno));
    } else {
        mode_t mask = umask(0);
        umask(mask);
        r = pull(c, handle, fd, path, e);
        if (r == 0 && !direct && (fchmod(fd, 0666 & ~mask) < 0 || rename(tmp, path) < 0))
            r = err_set(e, errno, "cannot make '%.300s': %s", path, strerror(errno));
        if (r < 0 && !direct)
            unlink(tmp);
        close(fd);
    }
    guest_close(c, handle, NULL);
out:
    free(tmp);
    free(path);
    return r;
}

/* What can be executed here can be there; agents without guest-exec do without. */
static void copy_mode(struct client *c, const char *path, mode_t mode)
{
    char text[8], chmod_cmd[] = "chmod", dashes[] = "--";
    struct exec_result x;
    snprintf(text, sizeof(text), "%o", (unsigned)mode & 0777);
    char *const argv[] = { chmod_cmd, text, dashes, (char *)path, NULL };
    if (agent_exec(c, argv, NULL, &x, NULL) == 0)
        exec_result_free(&x);
}

static int to_guest(struct client *c, const char *local, const char *guest, struct err *e)
{
    struct stat st;
    json_int_t handle;
    bool std = strcmp(local, "-") == 0;
    int fd = std ? dup(STDIN_FILENO) : open(local, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0 || S_ISDIR(st.st_mode)) {
        int err = fd >= 0 && errno == 0 ? EISDIR : errno;
        if (fd >= 0)
            close(fd);
        return err_set(e, err ? err : EISDIR, "cannot read '%.300s': %s", local, strerror(err ? err : EISDIR));
    }
    char *path = target(guest, false, std ? "stdin" : local);
    int r = path ? guest_open(c, path, "w", &handle, e) : err_set(e, ENOMEM, "out of memory");
    if (r == 0) {
        r = push(c, handle, fd, local, e);
        int closed = guest_close(c, handle, r == 0 ? e : NULL);
        r = r < 0 ? r : closed;
        if (r == 0 && S_ISREG(st.st_mode) && (st.st_mode & 0111))
            copy_mode(c, path, st.st_mode);
    }
    free(path);
    close(fd);
    return r;
}

/* NAME:PATH, cut at the colon: the path, or NULL. A name has no slash, so ./a:b is a local file. */
static char *guest_part(char *arg)
{
    char *colon = strchr(arg, ':'), *slash = strchr(arg, '/');
    if (!colon || (slash && slash < colon) || colon == arg)
        return NULL;
    *colon = '\0';
    return colon + 1;
}

int cli_cp(int argc, char **argv)
{
    struct err e = { 0 };
    struct client c;
    if (argc == 2 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0))
        return cli_help_on("cp");
    char *from = argc == 3 ? guest_part(argv[1]) : NULL, *to = argc == 3 ? guest_part(argv[2]) : NULL;
    if (argc != 3 || !from == !to)
        return cli_usage_error("usage: gazda cp NAME:FILE FILE, or gazda cp FILE NAME:FILE");
    if (!*(from ? from : to))
        return cli_usage_error("the name of the guest's file is empty; it must be NAME:FILE");
    if (client_open(&c, from ? argv[1] : argv[2], &e) < 0)
        return cli_fail(&e);
    int r = client_runs(&c, &e);
    if (r == 0)
        r = from ? from_guest(&c, from, argv[2], &e) : to_guest(&c, argv[1], to, &e);
    client_close(&c);
    return r < 0 ? cli_fail(&e) : STATUS_OK;
}
