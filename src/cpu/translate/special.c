/* SPDX-License-Identifier: MIT */
/* Instructions that are neither copied nor branches: LEA, hints, RDTSC, flags outside of the host's flags. */
#include "cpu/translate/trans.h"

static bool lea(struct trans *t)
{
    unsigned width = t->op[0].size, g;
    bool high;

    if (!op_address_ok(t, &t->op[1]))
        return false;
    g = op_gpr(t->op[0].reg.value, &high);
    op_offset(t, &t->op[1]);
    if (width == 64) {
        op_put(t, g, R11);
    } else if (width == 32) {
        em_mov32(&t->e, R11, R11);
        op_put(t, g, R11);
    } else {
        int h = host_reg(g);
        if (h < 0)
            em_rm(&t->e, 0x89 | EM_66, R11, HOME(g));
        else
            em_rr(&t->e, 0x89 | EM_66, R11, (unsigned)h);
    }
    return true;
}

/* TSC + offset, put together and taken apart without flags. */
static bool rdtsc(struct trans *t)
{
    struct emit *e = &t->e;

    if (!(t->kind & KIND_TSC))
        return false;
    em_bytes(e, "\x0f\x31", 2);
    tr_commit(t);
    em_rorx(e, RDX, RDX, 32, true);
    em_lea(e, RDX, HMEM_X(RDX, RAX, 0, 0));
    em_load(e, RCX, X(tsc_offset));
    em_lea(e, RDX, HMEM_X(RDX, RCX, 0, 0));
    em_mov32(e, RAX, RDX);
    em_rorx(e, RDX, RDX, 32, true);
    em_mov32(e, RDX, RDX);
    return true;
}

static bool pause_insn(struct trans *t)
{
    struct xrec *r;

    if ((t->i.attributes & ZYDIS_ATTRIB_HAS_REX) && t->i.raw.rex.B) /* XCHG R8, RAX */
        return false;
    r = tr_rec(t, X_PAUSE, t->next);
    em_bytes(&t->e, "\xf3\x90", 2);
    tr_exit(t, r);
    t->ended = true;
    return true;
}

bool emit_special(struct trans *t)
{
    switch (t->i.mnemonic) {
    case ZYDIS_MNEMONIC_LEA:
        return lea(t);
    case ZYDIS_MNEMONIC_RDTSC:
        return rdtsc(t);
    case ZYDIS_MNEMONIC_PAUSE:
        return pause_insn(t);
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCHW:
        return !(t->i.attributes & ZYDIS_ATTRIB_HAS_LOCK);
    default:
        return false;
    }
}
