/* SPDX-License-Identifier: MIT */
/*
 * Where appliances live: a folder each, $GAZDA_APPLIANCES/NAME or ~/.local/share/gazda/appliances/NAME, with
 * manifest.json and the files that it lists. What begins with a dot there is work in progress.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/appliance.h"
#include "cli/cli.h"

/* ---- work folders ---- */

int work_dir_make(struct work_dir *w, const char *parent, struct err *e)
{
    w->fd = -1;
    if (asprintf(&w->path, "%s/.gazda-XXXXXX", parent) < 0) {
        w->path = NULL;
        return err_set(e, ENOMEM, "out of memory");
    }
    if (!mkdtemp(w->path)) {
        int code = errno;
        free(w->path);
        w->path = NULL;
        return err_set(e, code, "cannot make a folder in %.300s: %s", parent, strerror(code));
    }
    w->fd = open(w->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (w->fd < 0) {
        int r = err_set(e, errno, "%.300s: %s", w->path, strerror(errno));
        work_dir_remove(w);
        return r;
    }
    return 0;
}

int work_dir_keep(struct work_dir *w, const char *path, struct err *e)
{
    if (renameat2(AT_FDCWD, w->path, AT_FDCWD, path, RENAME_NOREPLACE) < 0)
        return err_set(e, errno, errno == EEXIST ? "%.300s is there already" : "cannot make %.300s: %m", path);
    free(w->path);
    w->path = NULL;
    return 0;
}

void work_dir_remove(struct work_dir *w)
{
    if (w->fd >= 0)
        close(w->fd);
    if (w->path)
        store_remove_dir(w->path, NULL);
    free(w->path);
    *w = (struct work_dir){ NULL, -1 };
}

int store_remove_dir(const char *path, struct err *e)
{
    DIR *d = opendir(path);
    struct dirent *entry;
    if (!d)
        return err_set(e, errno, "%.300s: %s", path, strerror(errno));
    while ((entry = readdir(d)) != NULL)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
            unlinkat(dirfd(d), entry->d_name, 0);
    closedir(d);
    if (rmdir(path) < 0)
        return err_set(e, errno, "cannot remove %.300s: %s", path, strerror(errno));
    return 0;
}

/* ---- the store ---- */

/* mkdir -p; the path is put back as it was. */
static int make_folders(char *path)
{
    for (char *s = path + 1; *s; s++) {
        if (*s != '/')
            continue;
        *s = '\0';
        int r = mkdir(path, 0777);
        *s = '/';
        if (r < 0 && errno != EEXIST)
            return -errno;
    }
    return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

char *store_path(struct err *e)
{
    const char *own = getenv("GAZDA_APPLIANCES"), *data = getenv("XDG_DATA_HOME"), *home = getenv("HOME");
    char *path = NULL;
    int n = own && *own     ? asprintf(&path, "%s", own)
            : data && *data ? asprintf(&path, "%s/gazda/appliances", data)
            : home && *home ? asprintf(&path, "%s/.local/share/gazda/appliances", home)
                            : 0;
    if (n <= 0) {
        err_set(e, ENOENT, "where do appliances belong? set HOME or GAZDA_APPLIANCES");
        return NULL;
    }
    int r = strchr(path, ',') ? -EINVAL : make_folders(path);
    if (r < 0) {
        err_set(e, -r, "cannot keep appliances in %.300s: %s", path,
                r == -EINVAL ? "its name must not have a comma" : strerror(-r));
        free(path);
        return NULL;
    }
    return path;
}

char *store_entry(const char *name, struct err *e)
{
    char *path = NULL;
    if (!appliance_name_ok(name)) {
        err_set(e, EINVAL, "\"%.80s\" is no name of an appliance: it must have letters, digits, . _ - + only", name);
        return NULL;
    }
    char *store = store_path(e);
    if (store && asprintf(&path, "%s/%s", store, name) < 0) {
        err_set(e, ENOMEM, "out of memory");
        path = NULL;
    }
    free(store);
    return path;
}

int store_open(const char *name, struct appliance_manifest *m, struct err *e)
{
    char *path = store_entry(name, e);
    if (!path)
        return -EINVAL;
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;
    if (fd < 0)
        r = err_set(e, errno,
                    errno == ENOENT ? "there is no appliance \"%.80s\"; \"gazda appliance list\" shows them"
                                    : "\"%.80s\": %m",
                    name);
    else if (flock(fd, LOCK_EX | LOCK_NB) < 0)
        r = err_set(e, EBUSY, "appliance \"%.80s\" is in use by another process", name);
    else
        r = appliance_load(fd, m, e);
    free(path);
    if (r == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return r;
}

/* ---- list, info, delete ---- */

static uint64_t bytes_of(int fd, const struct appliance_manifest *m)
{
    uint64_t sum = 0;
    struct stat st;
    for (unsigned i = 0; i < m->n_files; i++)
        if (fstatat(fd, m->file[i].name, &st, AT_SYMLINK_NOFOLLOW) == 0)
            sum += (uint64_t)st.st_blocks * 512;
    return sum;
}

static void list_one(int store, const char *name, struct appliance_manifest *m)
{
    struct err e = { 0 };
    int fd = openat(store, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    if (appliance_load(fd, m, &e) == 0)
        printf("%-20s %4u %6lu MiB %6lu MiB  %s\n", name, m->cpus, m->mem >> 20, bytes_of(fd, m) >> 20, m->description);
    else
        printf("%-20s damaged: %s\n", name, e.text);
    close(fd);
}

static int by_name(const struct dirent *entry)
{
    return appliance_name_ok(entry->d_name);
}

int appliance_list(int argc, char **argv)
{
    struct err e = { 0 };
    struct dirent **names = NULL;
    if (argc > 1)
        return cli_usage_error("unexpected argument \"%s\"; see \"gazda help appliance\"", argv[1]);
    char *path = store_path(&e);
    struct appliance_manifest *m = calloc(1, sizeof(*m));
    if (!path || !m) {
        free(m);
        free(path);
        return cli_fail(&e);
    }
    int store = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), n = scandir(path, &names, by_name, alphasort);
    printf("%-20s %4s %10s %10s\n", "NAME", "CPUS", "MEMORY", "ON DISK");
    for (int i = 0; i < n; i++) {
        list_one(store, names[i]->d_name, m);
        free(names[i]);
    }
    free(names);
    if (store >= 0)
        close(store);
    free(m);
    free(path);
    return n < 0 ? cli_usage_error("cannot read the folder of appliances: %s", strerror(errno)) : STATUS_OK;
}

int appliance_info(int argc, char **argv)
{
    struct err e = { 0 };
    if (argc != 2)
        return cli_usage_error("appliance info needs a NAME or a FILE; see \"gazda help appliance\"");
    struct appliance_manifest *m = calloc(1, sizeof(*m));
    int r = -ENOMEM;
    /* A name of the store has no slash; a file can always be given one. Looking needs no lock. */
    char *path = m && appliance_name_ok(argv[1]) ? store_entry(argv[1], &e) : NULL;
    int fd = path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    if (fd >= 0)
        r = appliance_load(fd, m, &e);
    else if (m)
        r = appliance_peek(argv[1], m, &e);
    char *text = r == 0 ? appliance_manifest_print(m) : NULL;
    if (text)
        fputs(text, stdout);
    if (fd >= 0)
        close(fd);
    free(text);
    free(path);
    free(m);
    return r < 0 ? cli_fail(&e) : STATUS_OK;
}

int appliance_delete(int argc, char **argv)
{
    struct err e = { 0 };
    if (argc != 2)
        return cli_usage_error("appliance delete needs a NAME; see \"gazda help appliance\"");
    char *path = store_entry(argv[1], &e);
    int fd = path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1, r = path ? 0 : -EINVAL;
    if (path && fd < 0)
        r = err_set(&e, errno, "\"%.80s\": %s", argv[1], strerror(errno));
    if (r == 0 && flock(fd, LOCK_EX | LOCK_NB) < 0)
        r = err_set(&e, EBUSY, "appliance \"%.80s\" is in use by another process", argv[1]);
    r = r ? r : store_remove_dir(path, &e);
    if (fd >= 0)
        close(fd);
    free(path);
    return r < 0 ? cli_fail(&e) : STATUS_OK;
}
