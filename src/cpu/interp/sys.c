/* SPDX-License-Identifier: MIT */
/* Shared by the system-instruction files: see sys.h. */
#include <string.h>

#include "cpu/interp/sys.h"

void sys_raise(struct interp *m, const struct uop *u, struct x86_fault f, uint32_t ext)
{
    f.error |= ext;
    interp_raise(m, u, f);
}

uint64_t sys_desc(struct interp *m, const struct uop *u, uint16_t sel, unsigned vector, uint32_t ext)
{
    uint64_t raw = 0;
    gva_t addr;

    if (!x86_desc_locate(&m->c, sel, 8, &addr))
        interp_raise_vec(m, u, vector, (sel & X86_SEL_INDEX) | ext);
    interp_read(m, u, interp_sys_ctx(m), addr, &raw, 8);
    return raw;
}

uint64_t sys_desc_sys(struct interp *m, const struct uop *u, uint16_t sel, uint64_t *high)
{
    bool long_mode = x86_long_mode(&m->c);
    uint64_t raw[2] = { 0, 0 };
    gva_t addr;

    if (!x86_desc_locate(&m->c, sel, long_mode ? 16 : 8, &addr))
        interp_gp(m, u, sel & X86_SEL_INDEX);
    interp_read(m, u, interp_sys_ctx(m), addr, raw, long_mode ? 16 : 8);
    *high = raw[1] & UINT32_MAX;
    /* The type field of the upper half must be zero. */
    if (raw[1] & (0x1fUL << 40))
        interp_gp(m, u, sel & X86_SEL_INDEX);
    return raw[0];
}

static void write_type_byte(struct interp *m, const struct uop *u, uint16_t sel, uint8_t val)
{
    gva_t addr;

    if (x86_desc_locate(&m->c, sel, 8, &addr))
        interp_write(m, u, interp_sys_ctx(m), addr + 5, &val, 1);
}

void sys_desc_accessed(struct interp *m, const struct uop *u, uint16_t sel, uint64_t *raw)
{
    if (*raw & 1UL << 40)
        return;
    *raw |= 1UL << 40;
    write_type_byte(m, u, sel, (uint8_t)(*raw >> 40));
}

void sys_desc_set_type(struct interp *m, const struct uop *u, uint16_t sel, unsigned type)
{
    gva_t addr;
    uint8_t val;

    if (!x86_desc_locate(&m->c, sel, 8, &addr))
        return;
    interp_read(m, u, interp_sys_ctx(m), addr + 5, &val, 1);
    val = (uint8_t)((val & 0xf0) | type);
    interp_write(m, u, interp_sys_ctx(m), addr + 5, &val, 1);
}

enum tlb_ctx sys_ctx(const struct interp *m, unsigned cpl)
{
    if (cpl == 3)
        return TLB_USER;
    /* Stack accesses of a change to an inner privilege happen as from CPL 3: AC does not open user pages to them. */
    if ((m->c.cr4 & X86_CR4_SMAP) && (m->c.cpl == 3 || !(m->c.rflags & X86_FL_AC)))
        return TLB_KERNEL;
    return TLB_KERNEL_AC;
}

struct sys_stack sys_stack_current(const struct interp *m)
{
    return (struct sys_stack){
        .ss = m->c.seg[X86_SS_SEG],
        .sp = m->c.gpr[X86_RSP] & m->sp_mask,
        .mask = m->sp_mask,
        .ctx = m->ctx,
        .is64 = m->mode == X86_MODE_64,
    };
}

struct sys_stack sys_stack_legacy(const struct interp *m, struct x86_seg ss, uint64_t sp, unsigned cpl)
{
    uint64_t mask = ss.attr & X86_SEG_DB ? 0xffffffff : 0xffff;

    return (struct sys_stack){ .ss = ss, .sp = sp & mask, .mask = mask, .ctx = sys_ctx(m, cpl) };
}

struct sys_stack sys_stack_long(const struct interp *m, uint64_t sp, unsigned cpl)
{
    return (struct sys_stack){ .sp = sp, .mask = ~0UL, .ctx = sys_ctx(m, cpl), .is64 = true };
}

static gva_t stack_lin(struct interp *m, const struct uop *u, const struct sys_stack *s, uint64_t sp, unsigned size)
{
    bool typed = !x86_real_mode(&m->c) && !(m->c.rflags & X86_FL_VM);

    if (s->is64) {
        if (!x86_canonical(sp) || !x86_canonical(sp + size - 1))
            interp_raise_vec(m, u, X86_SS, s->error);
        return sp;
    }
    if ((s->ss.attr & X86_SEG_UNUSABLE) || !x86_seg_in_limit(&s->ss, sp, size) ||
        (typed && !x86_attr_writable(s->ss.attr)))
        interp_raise_vec(m, u, X86_SS, s->error);
    return (uint32_t)(s->ss.base + sp);
}

/* Pushes and pops of the program itself; delivery and IRET use other contexts. */
static void check_align(struct interp *m, const struct uop *u, enum tlb_ctx ctx, gva_t lin, unsigned size)
{
    if (unlikely(ctx == TLB_USER_AC) && (lin & (size - 1)))
        interp_raise_vec(m, u, X86_AC, 0);
}

void sys_push(struct interp *m, const struct uop *u, struct sys_stack *s, unsigned size, uint64_t val)
{
    uint64_t sp = (s->sp - size) & s->mask;

    gva_t lin = stack_lin(m, u, s, sp, size);

    check_align(m, u, s->ctx, lin, size);
    interp_write(m, u, s->ctx, lin, &val, size);
    s->sp = sp;
}

uint64_t sys_pop(struct interp *m, const struct uop *u, struct sys_stack *s, unsigned size)
{
    gva_t lin = stack_lin(m, u, s, s->sp, size);
    uint64_t val = 0;

    check_align(m, u, s->ctx, lin, size);
    interp_read(m, u, s->ctx, lin, &val, size);
    s->sp = (s->sp + size) & s->mask;
    return val;
}

uint64_t sys_read_far(struct interp *m, const struct uop *u, unsigned size, uint16_t *sel)
{
    gva_t lin = interp_ea(m, u, size + 2, false);
    uint64_t off = 0;
    uint8_t buf[10];

    check_align(m, u, m->ctx, lin, size);
    interp_read(m, u, m->ctx, lin, buf, size + 2);
    memcpy(&off, buf, size);
    memcpy(sel, buf + size, 2);
    return off;
}

void sys_stack_commit_sp(struct interp *m, const struct sys_stack *s)
{
    uint64_t *rsp = &m->c.gpr[X86_RSP];

    *rsp = s->mask == 0xffff ? (*rsp & ~0xffffUL) | s->sp : s->sp;
}

struct sys_stack sys_tss_stack(struct interp *m, const struct uop *u, unsigned cpl, uint32_t ext)
{
    const struct cpu_state *c = &m->c;
    bool is32 = (c->tr.attr & X86_SEG_TYPE) & 8;
    unsigned off = is32 ? 4 + 8 * cpl : 2 + 4 * cpl;
    unsigned size = is32 ? 4 : 2;
    struct sys_stack s;
    struct x86_fault f;
    uint32_t sp = 0;
    uint16_t sel;
    uint64_t raw;

    if ((c->tr.attr & X86_SEG_UNUSABLE) || off + size + 2 - 1 > c->tr.limit)
        interp_raise_vec(m, u, X86_TS, (c->tr.sel & X86_SEL_INDEX) | ext);
    interp_read(m, u, interp_sys_ctx(m), c->tr.base + off, &sp, size);
    interp_read(m, u, interp_sys_ctx(m), c->tr.base + off + size, &sel, 2);
    if (x86_sel_null(sel))
        interp_raise_vec(m, u, X86_TS, ext);
    raw = sys_desc(m, u, sel, X86_TS, ext);
    if (!x86_check_stack(sel, raw, cpl, X86_TS, &f))
        sys_raise(m, u, f, ext);
    sys_desc_accessed(m, u, sel, &raw);
    s = sys_stack_legacy(m, x86_seg_parse(sel, raw, 0), sp, cpl);
    s.error = (sel & X86_SEL_INDEX) | ext;
    return s;
}

uint64_t sys_tss_rsp(struct interp *m, const struct uop *u, unsigned off, uint32_t ext)
{
    const struct cpu_state *c = &m->c;
    uint64_t rsp;

    if ((c->tr.attr & X86_SEG_UNUSABLE) || off + 7 > c->tr.limit)
        interp_raise_vec(m, u, X86_TS, (c->tr.sel & X86_SEL_INDEX) | ext);
    interp_read(m, u, interp_sys_ctx(m), c->tr.base + off, &rsp, 8);
    return rsp;
}

void sys_commit_cs(struct interp *m, uint16_t sel, uint64_t raw, unsigned cpl)
{
    m->c.seg[X86_CS] = x86_seg_parse((uint16_t)((sel & X86_SEL_INDEX) | cpl), raw, 0);
    m->c.cpl = (uint8_t)cpl;
}

void sys_check_ip(struct interp *m, const struct uop *u, uint64_t raw, uint64_t ip, uint32_t error)
{
    if (sys_code64(m, raw) ? !x86_canonical(ip) : ip > x86_seg_parse(0, raw, 0).limit)
        interp_gp(m, u, error);
}

uint64_t sys_return_cs(struct interp *m, const struct uop *u, uint16_t cs, uint64_t ip)
{
    struct x86_fault f;
    uint64_t raw;

    if (x86_sel_null(cs))
        interp_gp(m, u, 0);
    raw = sys_desc(m, u, cs, X86_GP, 0);
    if (!x86_check_code_return(cs, raw, m->c.cpl, x86_long_mode(&m->c), &f))
        interp_raise(m, u, f);
    sys_desc_accessed(m, u, cs, &raw);
    sys_check_ip(m, u, raw, ip, 0);
    return raw;
}

struct x86_seg sys_return_ss(struct interp *m, const struct uop *u, uint16_t ss, uint16_t cs, uint64_t cs_raw)
{
    unsigned rpl = cs & X86_SEL_RPL;
    struct x86_fault f;
    uint64_t raw;

    if (x86_sel_null(ss)) {
        if (!sys_code64(m, cs_raw) || rpl == 3 || (ss & X86_SEL_RPL) != rpl)
            interp_gp(m, u, 0);
        return x86_seg_null(ss, 0);
    }
    raw = sys_desc(m, u, ss, X86_GP, 0);
    if (!x86_check_stack(ss, raw, rpl, X86_GP, &f))
        interp_raise(m, u, f);
    sys_desc_accessed(m, u, ss, &raw);
    return x86_seg_parse(ss, raw, 0);
}

void sys_return_drop(struct interp *m, unsigned cpl)
{
    static const uint8_t data[] = { X86_ES, X86_DS, X86_FS, X86_GS };

    for (unsigned i = 0; i < ARRAY_LEN(data); i++)
        if (x86_seg_drop_on_return(&m->c.seg[data[i]], cpl))
            m->c.seg[data[i]] = x86_seg_null(0, 0);
}

void sys_return_sp(struct interp *m, uint64_t sp, const struct x86_seg *ss, uint64_t cs_raw)
{
    uint64_t *rsp = &m->c.gpr[X86_RSP];

    if (sys_code64(m, cs_raw) || (ss->attr & X86_SEG_DB))
        *rsp = sp;
    else
        *rsp = (*rsp & ~0xffffUL) | (sp & 0xffff);
}
