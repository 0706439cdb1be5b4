/* SPDX-License-Identifier: MIT */
/*
 * Instructions done in C without the interpreter: changes of privilege, CR3. Each does only the common
 * case and changes nothing when it is another one; the interpreter then does it all.
 */
#include <Zydis/Mnemonic.h>

#include "cpu/translate/fast.h"
#include "mem/mem.h"
#include "x86/segment.h"

enum {
    CODE64 = X86_SEG_P | X86_SEG_S | 0xb | X86_SEG_L | X86_SEG_G,
    DATA = X86_SEG_P | X86_SEG_S | 3 | X86_SEG_DB | X86_SEG_G
};
enum { MSR_FS_BASE = 0xc0000100U, MSR_GS_BASE = 0xc0000101U, MSR_KERNEL_GS_BASE = 0xc0000102U };
#define CR3_NOFLUSH (1UL << 63)

static struct x86_seg flat(unsigned sel, uint32_t attr, unsigned dpl)
{
    return (struct x86_seg){ .limit = UINT32_MAX, .attr = attr | dpl << X86_SEG_DPL_SHIFT, .sel = (uint16_t)sel };
}

/* ---- memory ---- */

uint8_t *xl_fast_host(struct xlate *x, gva_t lin, bool write)
{
    struct xl_tlb *t = &x->tlb[kind_ctx(x->kind)];
    unsigned k = (lin >> PAGE_SHIFT) % TLB_ENTRIES;

    for (unsigned tries = 0; tries < 2; tries++) {
        if ((write ? t->wtag : t->rtag)[k] == -(lin & PAGE_MASK))
            return (uint8_t *)(lin + t->addend[k]);
        if (xl_tlb_fill(x, lin, 1, write) != MISS_RETRY)
            break;
    }
    return NULL;
}

void xl_fast_stored(struct xlate *x, gva_t lin, uint64_t len)
{
    gpa_t frame = (gpa_t)x->tlb[kind_ctx(x->kind)].frame[(lin >> PAGE_SHIFT) % TLB_ENTRIES] << PAGE_SHIFT;

    if (unlikely(*mem_frame_flags(x->v->mem, frame) & MEM_F_CODE))
        mem_code_written(x->v->mem, frame | (lin & ~PAGE_MASK), len);
}

static bool read64(struct xlate *x, gva_t lin, uint64_t *val)
{
    const uint8_t *p = xl_fast_host(x, lin, false);

    if (!p || (lin & ~PAGE_MASK) > PAGE_SIZE - 8)
        return false;
    *val = __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_RELAXED);
    return true;
}

/* ---- system calls ---- */

/* SDM Vol. 2B, "SYSCALL". */
static bool fast_syscall(struct xlate *x, const struct xrec *r)
{
    struct cpu_state *c = x->cpu;
    unsigned cs = (c->msr.star >> 32) & 0xfffc, ss = ((c->msr.star >> 32) & 0xffff) + 8;

    if (!(c->msr.efer & X86_EFER_SCE))
        return false;
    c->gpr[X86_RCX] = xl_fast_next(x, r);
    c->gpr[X86_R11] = c->rflags & ~(uint64_t)X86_FL_RF;
    c->rip = c->msr.lstar;
    c->rflags = (c->gpr[X86_R11] & ~c->msr.sfmask) | X86_FL_1;
    xl_x87_pointers(x);
    c->seg[X86_CS] = flat(cs, CODE64, 0);
    c->seg[X86_SS_SEG] = flat(ss & 0xfffc, DATA, 0);
    c->cpl = 0;
    xl_set_kind(x, xl_kind_now(x));
    return true;
}

/* SDM Vol. 2B, "SYSRET", to 64-bit mode. */
static bool fast_sysret(struct xlate *x, const struct xrec *r)
{
    struct cpu_state *c = x->cpu;
    unsigned base = (unsigned)(c->msr.star >> 48);
    struct x86_seg *ss = &c->seg[X86_SS_SEG];

    if (!(c->msr.efer & X86_EFER_SCE) || !r->size || !x86_canonical(c->gpr[X86_RCX]) ||
        (x->v->model->vendor == X86_VENDOR_AMD && (ss->attr & X86_SEG_UNUSABLE)))
        return false;
    c->rflags = (c->gpr[X86_R11] & 0x3c7fd7) | X86_FL_1;
    xl_x87_pointers(x);
    c->seg[X86_CS] = flat((base + 16) | 3, CODE64, 3);
    if (x->v->model->vendor == X86_VENDOR_AMD) { /* keeps the hidden part */
        ss->sel = (uint16_t)((base + 8) | 3);
        ss->attr |= X86_SEG_DPL;
    } else {
        *ss = flat((base + 8) | 3, DATA, 3);
    }
    c->cpl = 3;
    x->direct.returns++;
    c->rip = c->gpr[X86_RCX];
    xl_set_kind(x, xl_kind_now(x));
    return true;
}

/* ---- IRET ---- */

static bool descriptor(struct xlate *x, uint16_t sel, uint64_t *raw)
{
    gva_t at;

    return !(sel & X86_SEL_TI) && !x86_sel_null(sel) && x86_desc_locate(x->cpu, sel, 8, &at) && !(at & 7) &&
           read64(x, at, raw) && (*raw >> 40 & X86_T_ACCESSED);
}

/* SDM Vol. 2A, "IRET", from 64-bit mode to 64-bit mode. */
static bool fast_iret(struct xlate *x)
{
    const uint64_t change = X86_FL_ARITH | X86_FL_TF | X86_FL_DF | X86_FL_NT | X86_FL_RF | X86_FL_AC | X86_FL_ID |
                            X86_FL_IOPL | X86_FL_VIF | X86_FL_VIP | X86_FL_IF;
    struct cpu_state *c = x->cpu;
    uint64_t f[5], cs_raw, ss_raw = 0;
    struct x86_seg ss;
    struct x86_fault fault;

    for (unsigned k = 0; k < 5; k++)
        if (!read64(x, c->gpr[X86_RSP] + 8 * k, &f[k]))
            return false;
    unsigned rpl = f[1] & 3;
    uint16_t cs = (uint16_t)f[1], ss_sel = (uint16_t)f[4];
    if ((c->rflags & X86_FL_NT) || c->nmi_blocked || rpl < c->cpl || (rpl != 0 && rpl != 3) || !x86_canonical(f[0]) ||
        !descriptor(x, cs, &cs_raw) || !x86_check_code_return(cs, cs_raw, c->cpl, true, &fault) ||
        !(x86_desc_attr(cs_raw) & X86_SEG_L))
        return false;
    if (x86_sel_null(ss_sel)) {
        if (rpl == 3)
            return false;
        ss = x86_seg_null(ss_sel, 0);
    } else {
        if (!descriptor(x, ss_sel, &ss_raw) || !x86_check_stack(ss_sel, ss_raw, rpl, X86_GP, &fault))
            return false;
        ss = x86_seg_parse(ss_sel, ss_raw, 0);
    }
    if (rpl > c->cpl)
        for (unsigned s = X86_ES; s <= X86_GS; s++)
            if (s != X86_CS && s != X86_SS_SEG && x86_seg_drop_on_return(&c->seg[s], rpl))
                return false;
    xl_x87_pointers(x);
    c->seg[X86_CS] = x86_seg_parse(cs, cs_raw, 0);
    c->seg[X86_SS_SEG] = ss;
    x->direct.returns += rpl > c->cpl;
    c->cpl = (uint8_t)rpl;
    c->gpr[X86_RSP] = f[3];
    c->rflags = (c->rflags & ~change) | (f[2] & change) | X86_FL_1;
    c->rip = f[0];
    xl_set_kind(x, xl_kind_now(x));
    return true;
}

/* ---- translations ---- */

static bool fast_cr3(struct xlate *x, const struct xrec *r)
{
    struct cpu_state *c = x->cpu;
    uint64_t val = x->aux;
    bool pcid = c->cr4 & X86_CR4_PCIDE, keep = pcid && (val & CR3_NOFLUSH);

    if (pcid)
        val &= ~CR3_NOFLUSH;
    if (!x86_long_mode(c) || val >> x->v->model->phys_bits)
        return false;
    if (!keep || val != c->cr3) {
        xl_tlb_switch(x);
        x->late.local = true;
    }
    c->cr3 = val;
    xl_direct_cr3(x, keep);
    c->rip = xl_fast_next(x, r);
    return true;
}

static bool fast_invlpg(struct xlate *x, const struct xrec *r)
{
    if (x86_canonical(x->aux)) {
        xl_tlb_flush_page(x, x->aux);
        if (x->late.n == ARRAY_LEN(x->late.page))
            xl_late_flush(x);
        x->late.page[x->late.n++] = x->aux;
    }
    x->cpu->rip = xl_fast_next(x, r);
    return true;
}

static bool fast_wrmsr(struct xlate *x, const struct xrec *r)
{
    struct cpu_state *c = x->cpu;
    uint64_t val = (c->gpr[X86_RDX] << 32) | (uint32_t)c->gpr[X86_RAX];

    if (!x86_canonical(val))
        return false;
    switch ((uint32_t)c->gpr[X86_RCX]) {
    case MSR_FS_BASE:
        c->seg[X86_FS].base = x->seg_base[X86_FS] = val;
        break;
    case MSR_GS_BASE:
        c->seg[X86_GS].base = x->seg_base[X86_GS] = val;
        break;
    case MSR_KERNEL_GS_BASE:
        c->msr.kernel_gs_base = val;
        break;
    default:
        return false;
    }
    c->rip = xl_fast_next(x, r);
    return true;
}

bool xl_fast(struct xlate *x, const struct xrec *r)
{
    switch (r->op) {
    case ZYDIS_MNEMONIC_SYSCALL:
        return fast_syscall(x, r);
    case ZYDIS_MNEMONIC_SYSRET:
        return fast_sysret(x, r);
    case ZYDIS_MNEMONIC_IRETQ:
        return fast_iret(x);
    case ZYDIS_MNEMONIC_MOV:
        return fast_cr3(x, r);
    case ZYDIS_MNEMONIC_INVLPG:
        return fast_invlpg(x, r);
    case ZYDIS_MNEMONIC_WRMSR:
        return fast_wrmsr(x, r);
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XRSTOR:
    case ZYDIS_MNEMONIC_XRSTOR64:
        return xl_fast_xsave(x, r);
    default:
        return xl_fast_string(x, r);
    }
}
