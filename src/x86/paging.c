/* SPDX-License-Identifier: MIT */
/*
 * Guest page-table walks: SDM Vol. 3A, "Paging".
 *
 * A walk reads all entries first and checks rights once it knows that every level is present, as the processor does:
 * a not-present entry below a forbidding one gives a not-present fault. Accessed and dirty bits are set only after
 * that, each by compare-and-set against the value that was read; if the guest changed an entry in between, the whole
 * walk is done again, so a translation never comes from a mixture of old and new entries.
 */
#include "x86/paging.h"

enum {
    PTE_P = 1 << 0,
    PTE_W = 1 << 1,
    PTE_U = 1 << 2,
    PTE_A = 1 << 5,
    PTE_D = 1 << 6,
    PTE_PS = 1 << 7,
    PTE_G = 1 << 8,
};
#define PTE_XD (1UL << 63)

enum { MAX_LEVELS = 4, MAX_TRIES = 1000 };

/* Bits hi..lo inclusive; empty when hi < lo. */
static uint64_t bit_range(unsigned hi, unsigned lo)
{
    return hi < lo ? 0 : (~0UL >> (63 - hi)) & (~0UL << lo);
}

struct walk {
    const struct cpu_state *c;
    const struct x86_phys *p;
    gva_t va;
    unsigned access;
    unsigned entry_size; /* 4 (10-10-12) or 8 */
    bool pae;            /* the three-level kind */
    unsigned phys_bits;
    unsigned levels; /* entries read so far */
    struct {
        gpa_t gpa;
        uint64_t val;
    } e[MAX_LEVELS];
    bool user, writable, nx;
};

static bool fail(const struct walk *w, uint32_t bits, struct x86_fault *f)
{
    uint32_t error = bits;

    if (w->access & X86_ACC_WRITE)
        error |= X86_PF_W;
    if (w->access & X86_ACC_USER)
        error |= X86_PF_U;
    if ((w->access & X86_ACC_EXEC) &&
        (((w->c->cr4 & X86_CR4_PAE) && (w->c->msr.efer & X86_EFER_NXE)) || (w->c->cr4 & X86_CR4_SMEP)))
        error |= X86_PF_I;
    *f = (struct x86_fault){ .vector = X86_PF, .has_error = true, .error = error, .addr = w->va };
    return false;
}

/* SDM Vol. 3A, "Reserved bits" in the tables of each paging mode. shift is that of the level, leaf = maps a page. */
static uint64_t reserved_bits(const struct walk *w, unsigned shift, bool leaf)
{
    uint64_t r;

    if (w->entry_size == 4) {
        if (!leaf || shift == 12)
            return 0;
        /* PSE-36: bits 20:13 are address bits 39:32. */
        return 1UL << 21 | (w->phys_bits < 40 ? bit_range(20, w->phys_bits - 32 + 13) : 0);
    }
    r = bit_range(w->pae ? 62 : 51, w->phys_bits);
    if (!(w->c->msr.efer & X86_EFER_NXE))
        r |= PTE_XD;
    if (shift == 39)
        r |= PTE_PS;
    if (leaf && shift > 12)
        r |= bit_range(shift - 1, 13);
    return r;
}

static uint64_t read_entry(const struct walk *w, gpa_t gpa)
{
    uint64_t val = 0;

    if (!w->p->read(w->p->arg, gpa, &val, w->entry_size))
        val = w->entry_size == 4 ? UINT32_MAX : UINT64_MAX;
    return val;
}

static bool is_leaf(const struct walk *w, unsigned shift, uint64_t entry)
{
    if (shift == 12)
        return true;
    if (!(entry & PTE_PS) || shift == 39)
        return false;
    return w->entry_size == 8 || (w->c->cr4 & X86_CR4_PSE);
}

/* Reads the entries from the top down. On success *shift_out is the shift of the page found. */
static bool descend(struct walk *w, gpa_t table, unsigned shift, unsigned *shift_out, struct x86_fault *f)
{
    unsigned index_bits = w->entry_size == 4 ? 10 : 9;

    w->levels = 0;
    w->user = w->writable = true;
    w->nx = false;
    for (;; shift -= index_bits) {
        gpa_t gpa = table + ((w->va >> shift) & ((1U << index_bits) - 1)) * w->entry_size;
        uint64_t entry = read_entry(w, gpa);
        bool leaf = is_leaf(w, shift, entry);

        if (!(entry & PTE_P))
            return fail(w, 0, f);
        if (entry & reserved_bits(w, shift, leaf))
            return fail(w, X86_PF_P | X86_PF_RSVD, f);
        w->e[w->levels].gpa = gpa;
        w->e[w->levels++].val = entry;
        w->user &= !!(entry & PTE_U);
        w->writable &= !!(entry & PTE_W);
        w->nx |= w->entry_size == 8 && (entry & PTE_XD);
        if (leaf) {
            *shift_out = shift;
            return true;
        }
        table = entry & bit_range(w->phys_bits - 1, 12);
    }
}

/* SDM Vol. 3A, "Determination of Access Rights". */
static bool may_read(const struct walk *w)
{
    const struct cpu_state *c = w->c;

    if (w->access & X86_ACC_USER)
        return w->user;
    if (!w->user || !(c->cr4 & X86_CR4_SMAP))
        return true;
    return !(w->access & X86_ACC_IMPLICIT) && (c->rflags & X86_FL_AC);
}

static bool may_write(const struct walk *w)
{
    if (!may_read(w))
        return false;
    return w->writable || (!(w->access & X86_ACC_USER) && !(w->c->cr0 & X86_CR0_WP));
}

static bool may_exec(const struct walk *w)
{
    if (w->nx)
        return false;
    if (w->access & X86_ACC_USER)
        return w->user;
    return !w->user || !(w->c->cr4 & X86_CR4_SMEP);
}

static bool allowed(const struct walk *w)
{
    if (w->access & X86_ACC_EXEC)
        return may_exec(w);
    return w->access & X86_ACC_WRITE ? may_write(w) : may_read(w);
}

/* False: an entry changed since it was read. */
static bool set_accessed_dirty(struct walk *w)
{
    for (unsigned i = 0; i < w->levels; i++) {
        uint64_t want = PTE_A;

        if (i == w->levels - 1 && (w->access & X86_ACC_WRITE))
            want |= PTE_D;
        want &= ~w->e[i].val;
        if (!want)
            continue;
        if (!w->p->set_bits(w->p->arg, w->e[i].gpa, w->entry_size, w->e[i].val, want))
            return false;
        w->e[i].val |= want;
    }
    return true;
}

static void fill(const struct walk *w, unsigned shift, struct x86_xlate *out)
{
    uint64_t leaf = w->e[w->levels - 1].val;
    uint64_t frame;

    if (shift == 22)
        frame = (leaf & bit_range(31, 22)) | (leaf & bit_range(20, 13)) << 19;
    else
        frame = leaf & bit_range(w->phys_bits - 1, shift);
    *out = (struct x86_xlate){
        .gpa = frame | (w->va & ((1UL << shift) - 1)),
        .page_shift = (uint8_t)shift,
        .user = w->user,
        .writable = may_write(w),
        .executable = may_exec(w),
        .global = (leaf & PTE_G) && (w->c->cr4 & X86_CR4_PGE),
        .dirty = leaf & PTE_D,
    };
}

bool x86_walk(const struct cpu_state *c, const struct x86_phys *p, gva_t va, unsigned access, struct x86_xlate *out,
              struct x86_fault *f)
{
    struct walk w = { .c = c, .p = p, .va = va, .access = access, .entry_size = 8 };
    unsigned top = 39, shift = 12;
    gpa_t table;

    if (!(c->cr0 & X86_CR0_PG)) {
        *out = (struct x86_xlate){
            .gpa = va, .page_shift = 12, .user = true, .writable = true, .executable = true, .dirty = true
        };
        return true;
    }
    w.phys_bits = p->phys_bits ? p->phys_bits : 52;
    if (x86_long_mode(c)) {
        table = c->cr3 & bit_range(w.phys_bits - 1, 12);
    } else if (c->cr4 & X86_CR4_PAE) {
        uint64_t pdpte = c->pdpte[(va >> 30) & 3];

        if (!(pdpte & PTE_P))
            return fail(&w, 0, f);
        w.pae = true;
        top = 21;
        table = pdpte & bit_range(w.phys_bits - 1, 12);
    } else {
        w.entry_size = 4;
        top = 22;
        table = c->cr3 & bit_range(31, 12);
    }
    /*
     * Another vCPU may change entries under us; each retry sees newer ones. The bound only stops a guest that does
     * nothing else: it then gets a translation without the A or D bit, as if it had cleared the bit right after.
     */
    for (unsigned try = 0; try < MAX_TRIES; try++) {
        if (!descend(&w, table, top, &shift, f))
            return false;
        if (!allowed(&w))
            return fail(&w, X86_PF_P, f);
        if ((access & X86_ACC_PROBE) || set_accessed_dirty(&w))
            break;
    }
    fill(&w, shift, out);
    return true;
}

bool x86_load_pdptes(struct cpu_state *c, const struct x86_phys *p, uint64_t cr3)
{
    unsigned phys_bits = p->phys_bits ? p->phys_bits : 52;
    uint64_t reserved = bit_range(2, 1) | bit_range(8, 5) | bit_range(63, phys_bits);
    uint64_t e[4];

    if (!p->read(p->arg, cr3 & bit_range(31, 5), e, sizeof(e)))
        return false;
    for (unsigned i = 0; i < 4; i++)
        if ((e[i] & PTE_P) && (e[i] & reserved))
            return false;
    for (unsigned i = 0; i < 4; i++)
        c->pdpte[i] = e[i];
    return true;
}
