/* SPDX-License-Identifier: MIT */
/*
 * String instructions. One item is a load, a store or a comparison, and then the registers move. A repeated one is the
 * host's own REP on host addresses: R10 is what was added to RSI and R11 what was added to RDI, so that a fault or a
 * kick at the REP finds the guest's registers again (fault.c); it is the only place where they are not the guest's.
 *
 * Soft TLB: only if all of the run is on its page, items count at most a page's bytes; else fast.c does it. Windows: a
 * run goes on from one page to the next and cannot jump over the unmapped space between windows. 32-bit addresses must
 * not wrap, so there too the run has a limit.
 */
#include "cpu/translate/trans.h"

struct string {
    unsigned regs; /* SIDE_SI, SIDE_DI */
    unsigned log;  /* of the item's size */
    bool store;    /* to [RDI] */
    bool down;
};

static uint32_t sized(const struct string *s, unsigned op)
{
    return s->log == 0 ? op : (op | 1) | (s->log == 1 ? EM_66 : s->log == 3 ? EM_W : 0);
}

static bool string_of(const struct trans *t, struct string *s)
{
    unsigned op = t->i->opcode & 0xfe;

    s->regs = op == 0xa4 || op == 0xa6 ? SIDE_SI | SIDE_DI : op == 0xac ? SIDE_SI : SIDE_DI;
    s->store = op == 0xa4 || op == 0xaa;
    s->log = t->i->opcode & 1 ? (unsigned)__builtin_ctz(t->i->operand_width / 8) : 0;
    s->down = t->kind & KIND_DF;
    if (t->i->address_width != (t->m64 ? 64 : 32) || (t->i->attributes & ZYDIS_ATTRIB_HAS_LOCK))
        return false;
    for (unsigned k = 0; k < t->i->operand_count; k++) {
        ZydisRegister seg = t->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY ? t->op[k].mem.segment : ZYDIS_REGISTER_DS;

        if (seg == ZYDIS_REGISTER_FS || seg == ZYDIS_REGISTER_GS || (!t->m64 && seg == ZYDIS_REGISTER_CS))
            return false;
    }
    return true;
}

/* ---- one item ---- */

static void get_linear(struct trans *t, unsigned reg)
{
    if (t->m64)
        em_mov(&t->e, R11, reg);
    else
        em_mov32(&t->e, R11, reg);
}

static void move(struct trans *t, const struct string *s, unsigned reg)
{
    int32_t by = s->down ? -(1 << s->log) : 1 << s->log;

    if (t->m64)
        em_lea(&t->e, reg, HMEM(reg, by));
    else
        em_lea32(&t->e, reg, HMEM(reg, by));
}

static void load_item(struct trans *t, const struct string *s)
{
    get_linear(t, RSI);
    op_lookup(t, 1U << s->log, false);
    em_rm(&t->e, s->log < 2 ? EM_0F | (0xb6 + s->log) : sized(s, 0x8a), RCX, HMEM_X(R11, R10, 0, 0)); /* movzx */
    em_store(&t->e, RCX, X(spill));
}

static void one_item(struct trans *t, const struct string *s)
{
    struct emit *e = &t->e;
    struct hmem at = HMEM_X(R11, R10, 0, 0);

    if (s->regs == SIDE_SI) { /* LODS */
        get_linear(t, RSI);
        op_lookup(t, 1U << s->log, false);
        em_rm(e, sized(s, 0x8a), RAX, at);
        tr_commit(t);
        move(t, s, RSI);
        return;
    }
    if (s->regs & SIDE_SI)
        load_item(t, s);
    get_linear(t, RDI);
    op_lookup(t, 1U << s->log, s->store);
    if (s->regs & SIDE_SI)
        em_load(e, RCX, X(spill));
    em_rm(e, sized(s, s->store ? 0x88 : 0x3a), s->regs & SIDE_SI ? RCX : RAX, at); /* mov, cmp */
    tr_commit(t);
    if (s->regs & SIDE_SI)
        move(t, s, RSI);
    move(t, s, RDI);
}

/* ---- runs ---- */

static void unless_zero(struct trans *t, const struct xrec *slow)
{
    em_jrcxz(&t->e, 5);
    tr_stub(t, em_jmp(&t->e), slow, STUB_PLAIN);
}

/* Goes the slow way unless 0 <= RCX < 4096. */
static void page_bytes(struct trans *t, const struct xrec *slow)
{
    em_vex_rm(&t->e, EM_VEX(2, 2, 1, 0xf5), RCX, RCX, X(mask_page)); /* pext rcx, rcx, [mask] */
    unless_zero(t, slow);
}

/* Likewise unless 0 <= RCX < 4 GiB; uses R10. */
static void bits_32(struct trans *t, const struct xrec *slow)
{
    em_const(&t->e, R10, 32);
    em_vex_rr(&t->e, EM_VEX(3, 2, 1, 0xf7), RCX, R10, RCX); /* shrx rcx, rcx, r10 */
    unless_zero(t, slow);
}

/* RCX = R11 plus the run's first byte, or for `last` its last byte, relative to where the register points. */
static void run_end(struct trans *t, const struct string *s, bool last)
{
    struct emit *e = &t->e;
    int32_t size = 1 << s->log;

    if (!s->down) {
        em_lea(e, RCX, last ? HMEM_X(R11, HOST_RCX_HOME, s->log, -1) : HMEM(R11, 0));
    } else if (last) {
        em_lea(e, RCX, HMEM(R11, size - 1));
    } else { /* not n = -n - 1 */
        em_mov(e, RCX, HOST_RCX_HOME);
        em_rr(e, 0xf7 | EM_W, 2, RCX);
        em_lea(e, RCX, HMEM_X(R11, RCX, s->log, 2 * size));
    }
}

/*
 * R10 = what to add to RSI or RDI. The count, at most 4096, is in guest RCX's place. An entry's tag belongs to a page
 * of the same index or of one far away, so the sums are offsets in the page, or far from them.
 */
static void soft_run(struct trans *t, const struct string *s, unsigned reg, bool write, const struct xrec *slow)
{
    struct emit *e = &t->e;
    size_t tlb = offsetof(struct xlate, tlb) + t->ctx * sizeof(struct xl_tlb);

    get_linear(t, reg);
    em_rorx(e, R10, R11, PAGE_SHIFT, true);
    em_rr(e, EM_0F | 0xb7, R10, R10); /* movzx r10d, r10w */
    em_load(e, RCX, HGS_X(R10, tlb + (write ? offsetof(struct xl_tlb, wtag) : offsetof(struct xl_tlb, rtag))));
    em_lea(e, R11, HMEM_X(R11, RCX, 0, 0));
    run_end(t, s, true);
    page_bytes(t, slow);
    if (s->down) {
        run_end(t, s, false);
        page_bytes(t, slow);
    }
    em_load(e, R10, HGS_X(R10, tlb + offsetof(struct xl_tlb, addend)));
}

static void window_run(struct trans *t, const struct string *s, unsigned reg, const struct xrec *slow)
{
    get_linear(t, reg);
    if (!t->m64) {
        run_end(t, s, true);
        bits_32(t, slow);
        if (s->down) {
            run_end(t, s, false);
            bits_32(t, slow);
        }
    }
    op_lookup(t, 1, false);
}

static void run_addend(struct trans *t, const struct string *s, unsigned reg, const struct xrec *slow)
{
    if (tr_window(t))
        window_run(t, s, reg, slow);
    else
        soft_run(t, s, reg, s->store && reg == RDI, slow);
}

static void add(struct trans *t, unsigned reg, unsigned addend)
{
    if (!t->m64)
        em_mov32(&t->e, reg, reg);
    em_lea(&t->e, reg, HMEM_X(reg, addend, 0, 0));
}

static void take_off(struct trans *t, unsigned reg, unsigned addend)
{
    em_rr(&t->e, 0xf7 | EM_W, 2, addend); /* not */
    if (t->m64)
        em_lea(&t->e, reg, HMEM_X(reg, addend, 0, 1));
    else
        em_lea32(&t->e, reg, HMEM_X(reg, addend, 0, 1));
}

static void get_count(struct trans *t)
{
    if (t->m64)
        em_mov(&t->e, RCX, HOST_RCX_HOME);
    else
        em_mov32(&t->e, RCX, HOST_RCX_HOME);
}

/* The host's instruction, and the registers back. */
static void host_rep(struct trans *t, const struct string *s)
{
    struct emit *e = &t->e;

    get_count(t);
    tr_commit(t);
    if (s->regs & SIDE_SI)
        add(t, RSI, R10);
    if (s->regs & SIDE_DI)
        add(t, RDI, R11);
    if (s->down)
        em8(e, 0xfd); /* std */
    t->side[t->nside].rep = (uint16_t)e->n;
    t->side[t->nside].rep_regs = (uint8_t)(s->regs | (t->m64 ? 0 : SIDE_NARROW));
    if (s->log == 1)
        em8(e, 0x66);
    em8(e, t->i->attributes & ZYDIS_ATTRIB_HAS_REPNE ? 0xf2 : 0xf3);
    if (s->log == 3)
        em8(e, 0x48);
    em8(e, t->i->opcode);
    if (s->down)
        em8(e, 0xfc); /* cld */
    if (s->regs & SIDE_SI)
        take_off(t, RSI, R10);
    if (s->regs & SIDE_DI)
        take_off(t, RDI, R11);
    if (t->m64)
        em_mov(e, HOST_RCX_HOME, RCX);
    else
        em_mov32(e, HOST_RCX_HOME, RCX);
}

static void run_inline(struct trans *t, const struct string *s, struct xrec *slow)
{
    struct emit *e = &t->e;
    uint32_t none;

    get_count(t);
    em_jrcxz(e, 2);
    em8(e, 0xeb); /* over the next one */
    em8(e, 5);
    none = em_jmp(e);
    if (!tr_window(t) || !t->m64) {
        em_lea(e, RCX, HMEM(RCX, -1));
        page_bytes(t, slow);
    }
    run_addend(t, s, RDI, slow);
    if (s->regs & SIDE_SI) {
        em_store(e, R10, X(spill));
        run_addend(t, s, RSI, slow);
        em_load(e, R11, X(spill));
    } else {
        em_mov(e, R11, R10);
    }
    host_rep(t, s);
    em_land32(e, none);
    slow->stub = t->base + e->n;
}

bool emit_string(struct trans *t)
{
    const uint64_t rep = ZYDIS_ATTRIB_HAS_REP | ZYDIS_ATTRIB_HAS_REPE | ZYDIS_ATTRIB_HAS_REPNE;
    bool compares = (t->i->opcode & 0xfe) == 0xa6 || (t->i->opcode & 0xfe) == 0xae;
    struct string s;
    struct xrec *r;

    if (!string_of(t, &s) || (!compares && (t->i->attributes & ZYDIS_ATTRIB_HAS_REPNE)))
        return false;
    if (!(t->i->attributes & rep)) {
        one_item(t, &s);
        return true;
    }
    if (!(s.regs & SIDE_DI)) /* REP LODS */
        return false;
    r = tr_rec(t, X_FAST, t->off);
    r->op = (uint16_t)t->i->mnemonic;
    r->size = (uint16_t)s.log;
    r->until = t->i->attributes & ZYDIS_ATTRIB_HAS_REPNE;
    r->narrow = !t->m64;
    r->down = s.down;
    r->target = t->next;
    if (t->x->no_pext) {
        tr_exit(t, r);
        t->ended = true;
        return true;
    }
    run_inline(t, &s, r);
    if (t->x->verify) /* which wants runs that fast.c may do at a block's end */
        flow_fall_through(t);
    return true;
}
