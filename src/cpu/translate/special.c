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

static bool rdtscp(struct trans *t)
{
    if (!rdtsc(t))
        return false;
    em_load32(&t->e, HOST_RCX_HOME, X(tsc_aux));
    return true;
}

/* MOV between the accumulator and an absolute address. */
static bool moffs(struct trans *t)
{
    bool store = t->i->opcode & 2, byte = !(t->i->opcode & 1);
    unsigned width = t->i->operand_width;
    const ZydisDecodedOperand *m = &t->op[store ? 0 : 1];

    if (!op_address(t, m))
        return false;
    op_lookup(t, byte ? 1 : width / 8, store);
    em_rm(&t->e,
          (t->i->opcode & 2 ? 0x88U : 0x8aU) | (t->i->opcode & 1U) |
              (byte || width == 32 ? 0
               : width == 64       ? EM_W
                                   : EM_66),
          RAX, HMEM_X(R11, R10, 0, 0));
    return true;
}

/*
 * BT and its like with a register offset and a memory operand: a bit string. The word's address is the operand's plus
 * the offset / width words; the instruction then works on that word with the offset in it.
 */
static bool bit_string(struct trans *t)
{
    struct emit *e = &t->e;
    unsigned width = t->op[0].size, log = width == 64 ? 6 : 5, g;
    bool high, write = t->i->mnemonic != ZYDIS_MNEMONIC_BT;

    if (width < 32 || t->i->address_width != 64 || t->x->no_pext || !op_address(t, &t->op[0]))
        return false;
    g = op_gpr(t->op[1].reg.value, &high);
    op_get(t, RCX, g);
    em_const(e, R10, log);
    em_vex_rr(e, EM_VEX(2, 2, width == 64, 0xf7), RCX, R10, RCX); /* sarx rcx, rcx, r10 */
    if (width == 32)
        em_rr(e, 0x63 | EM_W, RCX, RCX); /* movsxd */
    em_lea(e, R11, HMEM_X(R11, RCX, width == 64 ? 3 : 2, 0));
    op_lookup(t, width / 8, write);
    op_get(t, RCX, g);
    em_vex_rm(e, EM_VEX(2, 2, 1, 0xf5), RCX, RCX, width == 64 ? X(mask_63) : X(mask_31)); /* pext rcx, rcx, [mask] */
    if (t->i->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        em8(e, 0xf0);
    em_rm(e, EM_0F | t->i->opcode | (width == 64 ? EM_W : 0), RCX, HMEM_X(R11, R10, 0, 0));
    return true;
}

/* STD and CLD: the next block is one of the other kind. */
static bool set_df(struct trans *t, bool on)
{
    struct emit *e = &t->e;

    if (t->i->attributes & ZYDIS_ATTRIB_HAS_LOCK)
        return false;
    if (!(t->kind & KIND_DF) == !on)
        return true;
    em_load(e, RCX, X(rfl));
    em_lea(e, RCX, HMEM(RCX, on ? X86_FL_DF : -X86_FL_DF));
    em_store(e, RCX, X(rfl));
    tr_commit(t);
    em_rm(e, 0xc7, 0, X(kind));
    em32(e, (t->kind & ~(unsigned)(KIND_DF | KIND_SPLIT)) | (on ? KIND_DF : 0));
    t->kind ^= KIND_DF; /* for the way out */
    flow_fall_through(t);
    return true;
}

static bool pause_insn(struct trans *t)
{
    struct xrec *r;

    if ((t->i->attributes & ZYDIS_ATTRIB_HAS_REX) && t->i->raw.rex.B) /* AMD: XCHG R8, RAX */
        return false;
    r = tr_rec(t, X_PAUSE, t->next);
    em_bytes(&t->e, "\xf3\x90", 2);
    tr_exit(t, r);
    t->ended = true;
    return true;
}

bool emit_special(struct trans *t)
{
    switch (t->i->mnemonic) {
    case ZYDIS_MNEMONIC_LEA:
        return lea(t);
    case ZYDIS_MNEMONIC_RDTSC:
        return rdtsc(t);
    case ZYDIS_MNEMONIC_RDTSCP:
        return rdtscp(t);
    case ZYDIS_MNEMONIC_MOV:
        return moffs(t);
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return bit_string(t);
    case ZYDIS_MNEMONIC_CLD:
        return set_df(t, false);
    case ZYDIS_MNEMONIC_STD:
        return set_df(t, true);
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
        return !(t->i->attributes & ZYDIS_ATTRIB_HAS_LOCK);
    default:
        return false;
    }
}
