/* SPDX-License-Identifier: MIT */
/*
 * The host side of vector execution: code memory, the signal handler, and moving MXCSR and x87 state in and out.
 *
 * A fault belongs to us if
 * the faulting pc is in the code memory of the vCPU that this thread runs. Stubs keep the stack as they got it and m
 * and u in RDI and RSI, so changing RIP and RDX in the signal frame makes the fault look like a call of vector_fault.
 */
#include "cpu/interp/vector_make.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/fault.h"

/* ---- signals ---- */

static _Thread_local const struct vec_cache *volatile vector_here __attribute__((tls_model("initial-exec")));

static bool claim_fault(int sig, const siginfo_t *info, void *ucp)
{
    greg_t *r = ((ucontext_t *)ucp)->uc_mcontext.gregs;
    const struct vec_cache *vc = vector_here;

    (void)sig;
    if (!vc || info->si_code <= 0 || (uintptr_t)r[REG_RIP] - (uintptr_t)vc->rx >= VEC_CODE_SIZE ||
        r[REG_TRAPNO] == X86_PF)
        return false;
    r[REG_RDX] = r[REG_TRAPNO];
    r[REG_RIP] = (greg_t)(uintptr_t)vec_fault;
    return true;
}

/* ---- code memory ---- */

static int map_code(struct vec_cache *vc)
{
    int fd = memfd_create("gazda-vector", MFD_CLOEXEC), err = 0;
    void *rw, *rx;

    if (fd < 0)
        return -errno;
    if (ftruncate(fd, VEC_CODE_SIZE)) {
        err = -errno;
        goto out;
    }
    rw = mmap(NULL, VEC_CODE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (rw == MAP_FAILED) {
        err = -errno;
        goto out;
    }
    rx = mmap(NULL, VEC_CODE_SIZE, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
    if (rx == MAP_FAILED) {
        err = -errno;
        munmap(rw, VEC_CODE_SIZE);
        goto out;
    }
    vc->rw = rw;
    vc->rx = rx;
out:
    close(fd);
    return err;
}

static void *map_zero(size_t len)
{
    void *p = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

static vec_stub code_add(struct vec_cache *vc, const uint8_t *code, unsigned n)
{
    size_t at = (vc->used + 15) & ~(size_t)15;
    union {
        const uint8_t *p;
        vec_stub fn;
    } u;

    if (at + n > VEC_CODE_SIZE)
        return NULL;
    memcpy(vc->rw + at, code, n);
    vc->used = at + n;
    u.p = vc->rx + at;
    return u.fn;
}

static uint32_t hash_bytes(uint32_t h, const void *p, size_t n)
{
    const uint8_t *b = p;

    for (size_t k = 0; k < n; k++)
        h = (h ^ b[k]) * 0x01000193U;
    return h;
}

static bool op_equal(const struct vec_op *have, const struct vec_op *want, const struct vec_buf *code)
{
    struct vec_op t = *have;
    union {
        vec_stub fn;
        const uint8_t *p;
    } u = { .fn = have->stub };

    t.stub = NULL;
    t.code_len = 0;
    return have->code_len == code->n && !memcmp(&t, want, sizeof(t)) && !memcmp(u.p, code->b, code->n);
}

struct vec_op *vec_op_intern(struct vec_cache *vc, const struct vec_op *op, const struct vec_buf *code)
{
    uint32_t h = hash_bytes(hash_bytes(0x811c9dc5U, op, sizeof(*op)), code->b, code->n);
    struct vec_op *o;

    for (;; h++) {
        uint32_t k = vc->hash[h % VEC_HASH];
        if (!k)
            break;
        if (op_equal(&vc->ops[k - 1], op, code))
            return &vc->ops[k - 1];
    }
    if (vc->nops == VEC_OPS_MAX)
        return NULL;
    o = &vc->ops[vc->nops];
    *o = *op;
    o->code_len = (uint16_t)code->n;
    o->stub = code_add(vc, code->b, code->n);
    if (!o->stub)
        return NULL;
    vc->hash[h % VEC_HASH] = ++vc->nops;
    return o;
}

/* ---- life ---- */

static void probe_host(struct interp *m, struct vec_cache *vc)
{
    uint8_t fx[512] __attribute__((aligned(16))) = { 0 };
    static const double one = 1;

    __asm__ volatile("fninit; fldl %1; fxsave64 %0; fninit" : "=m"(fx) : "m"(one));
    memcpy(&vc->mxcsr_mask, fx + 28, 4);
    if (!vc->mxcsr_mask)
        vc->mxcsr_mask = 0xffbf;
    vc->ptrs_only_es = !memcmp(fx + 16, "\0\0\0\0\0\0\0", 8);
    vc->vlmax = !__builtin_cpu_supports("avx") ? 16 : m->v->model->xcr0_mask & 0xe0 ? 64 : 32;
}

int vec_create(struct interp *m)
{
    struct vec_cache *vc;
    int err = fault_listen(claim_fault);

    if (err)
        return err;
    vc = aligned_alloc(64, (sizeof(*vc) + 63) & ~63UL);
    if (!vc)
        return -ENOMEM;
    memset(vc, 0, sizeof(*vc));
    err = map_code(vc);
    if (err)
        goto undo_vc;
    err = -ENOMEM;
    vc->ops = map_zero(VEC_OPS_MAX * sizeof(*vc->ops));
    if (!vc->ops)
        goto undo_code;
    vc->hash = map_zero(VEC_HASH * sizeof(*vc->hash));
    if (!vc->hash)
        goto undo_ops;
    probe_host(m, vc);
    m->vec = vc;
    vec_state_init(m);
    interp_vector_enter(m);
    return 0;

undo_ops:
    munmap(vc->ops, VEC_OPS_MAX * sizeof(*vc->ops));
undo_code:
    munmap(vc->rw, VEC_CODE_SIZE);
    munmap((void *)(uintptr_t)vc->rx, VEC_CODE_SIZE);
undo_vc:
    free(vc);
    return err;
}

void interp_vector_fini(struct interp *m)
{
    struct vec_cache *vc = m->vec;

    if (!vc)
        return;
    interp_vector_leave(m);
    munmap(vc->rw, VEC_CODE_SIZE);
    munmap((void *)(uintptr_t)vc->rx, VEC_CODE_SIZE);
    munmap(vc->ops, VEC_OPS_MAX * sizeof(*vc->ops));
    munmap(vc->hash, VEC_HASH * sizeof(*vc->hash));
    free(vc);
    m->vec = NULL;
}

void vec_reset_code(struct interp *m)
{
    struct vec_cache *vc = m->vec;

    memset(vc->hash, 0, VEC_HASH * sizeof(*vc->hash));
    vc->used = 0;
    vc->nops = 0;
}

/* ---- the guest's control and x87 state ---- */

static uint32_t get_csr(void)
{
    return __builtin_ia32_stmxcsr();
}
static void set_csr(uint32_t v)
{
    __builtin_ia32_ldmxcsr(v);
}

void interp_vector_enter(struct interp *m)
{
    struct vec_cache *vc = m->vec;

    if (!vc || vc->entered)
        return;
    vc->host_mxcsr = get_csr();
    set_csr(m->c.fpu.mxcsr & vc->mxcsr_mask);
    vc->entered = true;
    vector_here = vc;
}

void interp_vector_leave(struct interp *m)
{
    struct vec_cache *vc = m->vec;

    if (!vc || !vc->entered)
        return;
    m->c.fpu.mxcsr = get_csr();
    set_csr(vc->host_mxcsr);
    vec_x87_drop(m);
    vc->entered = false;
    vector_here = NULL;
}

uint32_t vec_mxcsr(const struct interp *m)
{
    return m->vec->entered ? get_csr() : m->c.fpu.mxcsr;
}

void vec_mxcsr_set(struct interp *m, uint32_t val)
{
    m->c.fpu.mxcsr = val;
    if (m->vec->entered)
        set_csr(val);
}

/* The 64-bit FXSAVE image. SDM Vol. 1, "FXSAVE Area". */
struct fx_image {
    uint16_t fcw, fsw;
    uint8_t ftw, rsvd;
    uint16_t fop;
    uint64_t fip, fdp;
    uint32_t mxcsr, mxcsr_mask;
    uint8_t st[8][16];
    uint8_t rest[512 - 160];
} __attribute__((aligned(16)));
_Static_assert(sizeof(struct fx_image) == 512, "FXSAVE area");

void vec_x87_load(struct interp *m)
{
    const struct x86_fpu *f = &m->c.fpu;
    struct fx_image fx = { .fcw = f->fcw, .fsw = f->fsw, .ftw = f->ftw, .mxcsr = get_csr() };

    memcpy(fx.st, f->st, sizeof(fx.st));
    for (unsigned k = 0; k < 8; k++)
        memset(fx.st[k] + 10, 0, 6);
    __asm__ volatile("fxrstor64 %0"
                     :
                     : "m"(fx)
                     : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11",
                       "xmm12", "xmm13", "xmm14", "xmm15");
    m->vec->live = m->vec->touched = true;
}

void vec_x87_save(struct interp *m)
{
    struct x86_fpu *f = &m->c.fpu;
    struct fx_image fx;

    if (!m->vec->live)
        return;
    __asm__ volatile("fxsave64 %0" : "=m"(fx));
    f->fcw = fx.fcw;
    f->fsw = fx.fsw;
    f->ftw = fx.ftw;
    for (unsigned k = 0; k < 8; k++)
        memcpy(f->st[k], fx.st[k], 10);
}

void vec_x87_drop(struct interp *m)
{
    vec_x87_save(m);
    if (m->vec->touched)
        __asm__ volatile("fninit");
    m->vec->live = m->vec->touched = false;
}
