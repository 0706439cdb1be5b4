/* SPDX-License-Identifier: MIT */
/*
 * FNSTENV, FLDENV, FNSAVE, FRSTOR: the host's own instruction makes and takes the 32-bit protected-mode image; the
 * pointers in it, which would be the stub's, are replaced by the guest's, and the layout by that of mode and operand
 * size. SDM Vol. 1, "Saving the x87 FPU's State with FSTENV/FNSTENV and FSAVE/FNSAVE".
 */
#include "cpu/interp/vector_make.h"

#include <string.h>

/* The 32-bit protected-mode image. */
struct env32 {
    uint16_t fcw, rsvd0, fsw, rsvd1, ftw, rsvd2;
    uint32_t fip;
    uint16_t fcs, fop;
    uint32_t fdp;
    uint16_t fds, rsvd3;
};
_Static_assert(sizeof(struct env32) == 28, "x87 environment");
enum { ENV32 = 28, SAVE32 = 28 + 80 };

#define NO_FCS (1U << 13) /* CPUID.7.EBX: FCS and FDS are deprecated */

uint16_t vec_fcs(const struct interp *m)
{
    return m->v->model->feat_7_ebx & NO_FCS ? 0 : m->c.fpu.fcs;
}
uint16_t vec_fds(const struct interp *m)
{
    return m->v->model->feat_7_ebx & NO_FCS ? 0 : m->c.fpu.fds;
}

static bool real_layout(const struct interp *m)
{
    return x86_real_mode(&m->c) || (m->c.rflags & X86_FL_VM);
}

static void put16(uint8_t *p, unsigned k, uint32_t v)
{
    uint16_t w = (uint16_t)v;
    memcpy(p + 2 * k, &w, 2);
}
static void put32(uint8_t *p, unsigned k, uint32_t v)
{
    memcpy(p + 4 * k, &v, 4);
}
static uint32_t get16(const uint8_t *p, unsigned k)
{
    uint16_t w;
    memcpy(&w, p + 2 * k, 2);
    return w;
}

/* Writes the environment in the guest's layout; returns its length, 14 or 28. */
static unsigned env_out(const struct interp *m, const struct env32 *e, uint8_t *out, bool wide)
{
    const struct x86_fpu *f = &m->c.fpu;
    uint32_t cs = vec_fcs(m), ds = vec_fds(m), ip = (uint32_t)f->fip, dp = (uint32_t)f->fdp;
    bool real = real_layout(m);

    if (real) { /* linear addresses */
        ip += (uint32_t)m->c.seg[X86_CS].base;
        dp += (uint32_t)m->c.seg[X86_DS].base;
    }
    if (!wide) {
        put16(out, 0, e->fcw);
        put16(out, 1, e->fsw);
        put16(out, 2, e->ftw);
        put16(out, 3, ip);
        put16(out, 4, real ? (ip >> 16 & 0xf) << 12 | (f->fop & 0x7ff) : cs);
        put16(out, 5, dp);
        put16(out, 6, real ? (dp >> 16 & 0xf) << 12 : ds);
        return 14;
    }
    put32(out, 0, 0xffff0000U | e->fcw);
    put32(out, 1, 0xffff0000U | e->fsw);
    put32(out, 2, 0xffff0000U | e->ftw);
    if (real) {
        put32(out, 3, 0xffff0000U | (ip & 0xffff));
        put32(out, 4, (ip >> 16) << 12 | (f->fop & 0x7ff));
        put32(out, 5, 0xffff0000U | (dp & 0xffff));
        put32(out, 6, (dp >> 16) << 12);
    } else {
        put32(out, 3, ip);
        put32(out, 4, cs | (uint32_t)(f->fop & 0x7ff) << 16);
        put32(out, 5, dp);
        put32(out, 6, 0xffff0000U | ds);
    }
    return 28;
}

static void env_in(struct interp *m, const uint8_t *in, struct env32 *e, bool wide)
{
    struct x86_fpu *f = &m->c.fpu;
    unsigned step = wide ? 2 : 1;
    uint32_t ip, dp, fop;

    *e = (struct env32){ .fcw = (uint16_t)get16(in, 0),
                         .fsw = (uint16_t)get16(in, step),
                         .ftw = (uint16_t)get16(in, 2 * step) };
    e->rsvd0 = e->rsvd1 = e->rsvd2 = e->rsvd3 = 0xffff;
    if (!wide) {
        ip = get16(in, 3);
        dp = get16(in, 5);
        fop = f->fop;
        f->fcs = (uint16_t)get16(in, 4);
        f->fds = (uint16_t)get16(in, 6);
        if (real_layout(m)) {
            ip |= (get16(in, 4) & 0xf000) << 4;
            dp |= (get16(in, 6) & 0xf000) << 4;
            fop = get16(in, 4);
        }
    } else if (real_layout(m)) {
        ip = get16(in, 6) | (get16(in, 8) >> 12 | get16(in, 9) << 4) << 16;
        dp = get16(in, 10) | (get16(in, 12) >> 12 | get16(in, 13) << 4) << 16;
        fop = get16(in, 8);
    } else {
        ip = get16(in, 6) | get16(in, 7) << 16;
        dp = get16(in, 10) | get16(in, 11) << 16;
        fop = get16(in, 9);
        f->fcs = (uint16_t)get16(in, 8);
        f->fds = (uint16_t)get16(in, 12);
    }
    if (real_layout(m)) {
        ip -= (uint32_t)m->c.seg[X86_CS].base;
        dp -= (uint32_t)m->c.seg[X86_DS].base;
        f->fcs = m->c.seg[X86_CS].sel;
        f->fds = m->c.seg[X86_DS].sel;
    }
    f->fip = ip;
    f->fdp = dp;
    f->fop = (uint16_t)(fop & 0x7ff);
}

static void make_live(struct interp *m, const struct uop *u)
{
    vec_gate_check(m, u, VEC_GATE_X87);
    if (!m->vec->live)
        vec_x87_load(m);
}

static gva_t image_lin(struct interp *m, const struct uop *u, unsigned len, bool wide, bool write)
{
    gva_t lin = interp_ea(m, u, len, write);
    uint8_t last;

    vec_check_ac(m, u, lin, wide ? 4 : 2);
    if (write) { /* AMD touches the first and the last byte before the rest: it shows in CR2 */
        interp_probe_write(m, u, m->ctx, lin, 1);
        interp_probe_write(m, u, m->ctx, lin + len - 1, 1);
    } else {
        interp_read(m, u, m->ctx, lin, &last, 1);
        interp_read(m, u, m->ctx, lin + len - 1, &last, 1);
    }
    return lin;
}

static void wait_pending(struct interp *m, const struct uop *u)
{
    uint16_t fsw;

    __asm__ volatile("fnstsw %0" : "=a"(fsw));
    if (fsw & 0x80)
        vec_fault(m, u, X86_MF);
}

/* The store may leave for MMIO: until it is done the state of before is the guest's. */
static void store(struct interp *m, const struct uop *u, gva_t lin, const void *buf, unsigned len)
{
    m->vec->live = false;
    interp_write(m, u, m->ctx, lin, buf, len);
    m->vec->live = true;
}

static __attribute__((noinline)) void fnstenv(struct interp *m, const struct uop *u, bool wide)
{
    uint8_t out[28];
    struct env32 e;
    gva_t lin;

    make_live(m, u);
    lin = image_lin(m, u, wide ? 28 : 14, wide, true);
    vec_x87_save(m);
    __asm__ volatile("fnstenv %0" : "=m"(e));
    store(m, u, lin, out, env_out(m, &e, out, wide));
}

static __attribute__((noinline)) void fldenv(struct interp *m, const struct uop *u, bool wide)
{
    uint8_t in[28];
    struct env32 e;
    gva_t lin;

    make_live(m, u);
    wait_pending(m, u);
    lin = image_lin(m, u, wide ? 28 : 14, wide, false);
    interp_read(m, u, m->ctx, lin, in, wide ? 28 : 14);
    env_in(m, in, &e, wide);
    __asm__ volatile("fldenv %0" : : "m"(e));
}

static __attribute__((noinline)) void fnsave(struct interp *m, const struct uop *u, bool wide)
{
    uint8_t out[SAVE32], host[SAVE32];
    struct env32 e;
    unsigned len = wide ? 108 : 94, n;
    gva_t lin;

    make_live(m, u);
    lin = image_lin(m, u, len, wide, true);
    vec_x87_save(m);
    __asm__ volatile("fnsave %0" : "=m"(host));
    memcpy(&e, host, sizeof(e));
    n = env_out(m, &e, out, wide);
    memcpy(out + n, host + ENV32, 80);
    store(m, u, lin, out, len);
    vec_x87_clear_ptrs(m);
}

static __attribute__((noinline)) void frstor(struct interp *m, const struct uop *u, bool wide)
{
    uint8_t in[SAVE32], host[SAVE32];
    struct env32 e;
    unsigned len = wide ? 108 : 94;
    gva_t lin;

    make_live(m, u);
    wait_pending(m, u);
    lin = image_lin(m, u, len, wide, false);
    interp_read(m, u, m->ctx, lin, in, len);
    env_in(m, in, &e, wide);
    memcpy(host, &e, sizeof(e));
    memcpy(host + ENV32, in + (wide ? 28 : 14), 80);
    __asm__ volatile("frstor %0" : : "m"(host));
}

static __attribute__((noinline)) void fninit(struct interp *m, const struct uop *u)
{
    make_live(m, u);
    __asm__ volatile("fninit");
    vec_x87_clear_ptrs(m);
}

#define ENV_OP(name, call, next)                                                                                       \
    static void name(struct interp *m, const struct uop *u)                                                            \
    {                                                                                                                  \
        call;                                                                                                          \
        next(m, u);                                                                                                    \
    }
ENV_OP(op_fnstenv14, fnstenv(m, u, false), NEXT_ST)
ENV_OP(op_fnstenv28, fnstenv(m, u, true), NEXT_ST)
ENV_OP(op_fldenv14, fldenv(m, u, false), NEXT)
ENV_OP(op_fldenv28, fldenv(m, u, true), NEXT)
ENV_OP(op_fnsave94, fnsave(m, u, false), NEXT_ST)
ENV_OP(op_fnsave108, fnsave(m, u, true), NEXT_ST)
ENV_OP(op_frstor94, frstor(m, u, false), NEXT)
ENV_OP(op_frstor108, frstor(m, u, true), NEXT)
ENV_OP(op_fninit, fninit(m, u), NEXT)

uop_fn vec_pick_env(const struct vec_insn *d)
{
    bool wide = d->i.operand_width != 16;

    switch (d->i.mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
        return wide ? op_fnstenv28 : op_fnstenv14;
    case ZYDIS_MNEMONIC_FLDENV:
        return wide ? op_fldenv28 : op_fldenv14;
    case ZYDIS_MNEMONIC_FNSAVE:
        return wide ? op_fnsave108 : op_fnsave94;
    case ZYDIS_MNEMONIC_FRSTOR:
        return wide ? op_frstor108 : op_frstor94;
    case ZYDIS_MNEMONIC_FNINIT:
        return op_fninit;
    default:
        return NULL;
    }
}
