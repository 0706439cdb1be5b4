/* SPDX-License-Identifier: MIT */
/* posixfs: counting checks, and the groups of them. */
#ifndef POSIXFS_H
#define POSIXFS_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

extern unsigned checks, failed;
extern bool owners, shared_mmap; /* what works here */
extern char name255[256], name256[257];

void check(bool ok, int line, const char *what, const char *why);
void check_result(long r, int err, int line, const char *what);

#define OK(x) (errno = 0, check_result((long)(x), 0, __LINE__, #x))
#define ERR(e, x) (errno = 0, check_result((long)(x), e, __LINE__, #x))
#define IS(x) check(x, __LINE__, #x, "false")

void enter(const char *name); /* a fresh directory for each group, which begins in it */
void leave(void);
int make(const char *name, const char *text);
bool holds(const char *name, const char *text);
struct stat st_of(const char *name); /* st_size is -1: there is none */
mode_t mode_of(const char *name);
int open_close(const char *name, int flags, mode_t mode);

/* posixfs_data.c */
void test_open(void);
void test_io(void);
void test_sizes(void);
void test_truncate(void);
void test_locks(void);
void test_mmap(void);
void test_special(void);
/* posixfs_names.c */
void test_mkdir(void);
void test_unlink(void);
void test_readdir(void);
void test_rename(void);
void test_links(void);

#endif
