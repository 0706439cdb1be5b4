/* SPDX-License-Identifier: MIT */
/*
 * The 9p device inside, for p9*.c only: fids, requests, and the handlers of messages.
 *
 * A fid is a number of the client's for a node (an O_PATH descriptor) and, once opened, a file. Nodes, files and
 * attribute values are counted and never change what they stand for, so a request works on what its fid was when it
 * started, whatever becomes of the fid meanwhile. The table has a lock of its own, held for look-ups only.
 */
#ifndef GAZDA_VIRTIO_P9_H
#define GAZDA_VIRTIO_P9_H

#include <stdatomic.h>

#include "host/share.h"
#include "virtio/p9_msg.h"
#include "virtio/virtio.h"

enum {
    P9_MSIZE_MAX = 512 << 10,
    P9_MSIZE_MIN = 4096,
    P9_FIDS_MAX = 1 << 18,
    P9_MSG_MAX = 8192,      /* of a message without data: a walk of 16 long names, a long symbolic link */
    P9_REPLY_MAX = 65536,   /* of an answer that is not read straight into the guest's buffers */
    P9_ATTRS_MAX = 4 << 20, /* bytes of attribute values held at once */
    P9_BUCKETS = 1 << 14,
};

struct p9_node {
    atomic_uint refs;
    int fd;       /* O_PATH; -ESTALE after a load that did not find it */
    uint8_t type; /* of its qid */
};

struct p9_file {
    atomic_uint refs;
    int fd, flags;
    struct lock lock; /* the position of a directory */
    int64_t pos;
};

/* An extended attribute between Txattrwalk or Txattrcreate and the clunk. */
struct p9_attr {
    atomic_uint refs;
    bool write;
    uint32_t flags, size, got; /* got: bytes written so far, under the table's lock */
    char name[SHARE_NAME_MAX + 1];
    uint8_t value[];
};

/* What a fid stands for; a copy holds a reference on each. */
struct p9_fid {
    uint32_t num, uid; /* uid: the client's, for what it makes */
    struct p9_node *node;
    struct p9_file *file; /* NULL: not open */
    struct p9_attr *attr; /* NULL: none */
};

struct p9_fids {
    struct lock lock;
    unsigned n;
    size_t attr_bytes;
    struct p9_slot *first, *last; /* of all, in the order in which they came */
    struct p9_slot {
        struct p9_slot *next; /* in its bucket */
        struct p9_slot *after, *before;
        struct p9_fid fid;
    } * bucket[P9_BUCKETS];
};

struct p9 {
    struct virtio_dev v; /* first */
    struct share *share;
    char tag[VIRTIO_CONFIG_MAX];
    struct p9_fids fids;
    struct lock lock_lock; /* the two below */
    struct p9_locked *locked;
    unsigned n_locked;
    _Atomic uint32_t msize;  /* 0: no version was agreed on yet */
    struct p9_req *inflight; /* v.lock */
    bool draining;           /* v.lock: a Tversion waits until it is alone */
};

struct p9_req {
    struct pool_job job; /* first */
    struct p9 *p;
    struct p9_req *next;  /* in flight */
    struct p9_req *flush; /* Tflush requests that wait for this one */
    const struct p9_op *op;
    uint16_t head, tag;
    struct p9_in in;       /* the message behind the header; of a Twrite without the data */
    struct p9_out out;     /* the answer behind the header */
    uint32_t moved;        /* bytes of data that were read into the guest's buffers, behind the answer */
    uint32_t room;         /* of the answer and its data */
    unsigned n_in, n_out;  /* the chain's buffers; those to read only of a Twrite */
    struct virtq_buf *buf; /* those to write, then those to read */
};

struct p9_op {
    uint8_t type;
    uint32_t reply;               /* the most bytes of an answer, behind the header */
    int (*run)(struct p9_req *r); /* on a worker: 0 or -errno */
};

/* ---- p9_fid.c ---- */

void p9_fids_init(struct p9 *p);
void p9_fids_clear(struct p9 *p);                                /* clunks all */
struct p9_node *p9_node_new(struct p9 *p, int fd, uint8_t type); /* owns fd; NULL: closed it */
struct p9_file *p9_file_new(struct p9 *p, int fd, int flags);    /* the same */
void p9_put_fid(struct p9 *p, struct p9_fid *f);                 /* drops the references of a copy */
/* A copy of fid num: 0 or -EBADF; -ESTALE if it was lost. */
int p9_get_fid(struct p9 *p, uint32_t num, struct p9_fid *out);
/* Enters a new fid; takes over f's references if it succeeds. -EBUSY: the number is in use; -EMFILE: too many. */
int p9_add_fid(struct p9 *p, struct p9_fid *f);
/* Puts what f has in place of what its number stood for when `was` was got; else -EBUSY. References: as above. */
int p9_set_fid(struct p9 *p, const struct p9_fid *was, struct p9_fid *f);
int p9_del_fid(struct p9 *p, uint32_t num, struct p9_fid *out); /* its references go to out */
/* With the table's lock. Empties the table: what was in it, by ->after; puts that back; or, without the lock, ends it.
 */
struct p9_slot *p9_detach_fids(struct p9 *p);
void p9_attach_fids(struct p9 *p, struct p9_slot *list);
void p9_free_fids(struct p9 *p, struct p9_slot *list);
void p9_save_fids(struct p9 *p, struct state_out *s);
int p9_load_fids(struct p9 *p, struct state_in *s);

/* ---- handlers ---- */

const struct p9_op *p9_find_op(uint8_t type);                                   /* NULL: unknown */
int p9_node_at(struct p9 *p, int fd, struct p9_node **out, struct p9_qid *qid); /* owns fd */
int p9_qid_of(struct p9 *p, int fd, struct p9_qid *qid);

int p9_version(struct p9_req *r);
int p9_lopen(struct p9_req *r);
int p9_lcreate(struct p9_req *r);
int p9_read(struct p9_req *r);
int p9_write(struct p9_req *r);
int p9_readdir(struct p9_req *r);
int p9_fsync(struct p9_req *r);
int p9_xattrwalk(struct p9_req *r);
int p9_xattrcreate(struct p9_req *r);
int p9_xattr_end(struct p9 *p, struct p9_fid *f); /* at the clunk */
int p9_lock(struct p9_req *r);
int p9_getlock(struct p9_req *r);
void p9_unlock_fid(struct p9 *p, uint32_t fid); /* ends the locks that came through it */
void p9_unlock_all(struct p9 *p);

#endif
