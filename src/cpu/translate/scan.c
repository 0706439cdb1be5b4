/* SPDX-License-Identifier: MIT */
/*
 * Translating a block: instructions from one page, through conditional branches that are not taken, until one that
 * ends it. What is not listed here is the interpreter's (default deny).
 */
#include "cpu/translate/trace.h"
#include "cpu/translate/trans.h"
#include "cpu/translate/verify.h"
#include "mem/mem.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

int xl_scan_init(struct xlate *x)
{
    x->scratch = calloc(1, sizeof(*x->scratch));
    return x->scratch ? 0 : -ENOMEM;
}

void xl_scan_fini(struct xlate *x)
{
    free(x->scratch);
}

struct xrec *tr_rec(struct trans *t, enum xrec_kind kind, int32_t off)
{
    struct xrec *r = &t->recs[t->nrecs < TR_RECS - 1 ? t->nrecs++ : t->nrecs];
    bool retires = kind == X_LINK || kind == X_LOOKUP || kind == X_PAUSE;

    *r = (struct xrec){ .kind = (uint8_t)kind, .off = off, .b = t->b };
    r->shadow = t->shadow && !(t->shadowed && retires);
    return r;
}

void tr_stub(struct trans *t, uint32_t at, const struct xrec *r, enum stub_form form)
{
    if (t->nstubs == TR_RECS) {
        t->e.full = true;
        return;
    }
    t->stub[t->nstubs].at = at;
    t->stub[t->nstubs].rec = (uint16_t)(r - t->recs);
    t->stub[t->nstubs++].form = (uint8_t)form;
}

void tr_exit(struct trans *t, const struct xrec *r)
{
    em8(&t->e, 0x41); /* mov r11d, record */
    em8(&t->e, 0xbb);
    em32(&t->e, tr_recoff(t, r));
    uint32_t at = em_jmp(&t->e);
    em_patch32(&t->e, at, (uint32_t)(t->x->exit - t->x->code.rx) - (t->base + at + 4));
}

/* Jumps to other pages, which are a part of what runs. */
static void cross_stubs(struct trans *t)
{
    for (unsigned k = 0; k < t->nstubs; k++)
        if (t->stub[k].form == STUB_CROSS) {
            em_land32(&t->e, t->stub[k].at);
            flow_cross_stub(t, &t->recs[t->stub[k].rec]);
        }
}

/* The ways out, which most blocks do not take: the links of branches, and misses. They are elsewhere. */
static void cold_stubs(struct trans *t)
{
    struct xlate *x = t->x;
    struct emit main = t->e;
    uint32_t base = t->base;

    t->base = t->b->cold = codemem_cold(&x->code);
    t->e = (struct emit){ .p = x->code.rw + t->base, .max = TR_COLD };
    for (unsigned k = 0; k < t->nstubs; k++) {
        struct xrec *r = &t->recs[t->stub[k].rec];
        uint32_t at = t->stub[k].at;

        if (t->stub[k].form == STUB_CROSS)
            continue;
        em_patch32(&main, at, t->base + t->e.n - (base + at + 4));
        if (r->kind == X_LINK)
            r->stub = t->base + t->e.n;
        else if (r->kind == X_GROUP)
            r->miss = t->base + t->e.n;
        if (t->stub[k].form == STUB_MISS)
            em_mov(&t->e, R10, R11);
        tr_exit(t, r);
    }
    assert(!t->e.full);
    t->b->cold_end = t->base + t->e.n;
    t->e = main;
    t->base = base;
}

/* MOV of general registers and memory only; bit tests with a register only if both are registers. */
static bool plain_operands(const struct trans *t)
{
    for (unsigned k = 0; k < t->i->operand_count_visible; k++)
        if (t->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER && !op_is_gpr(&t->op[k]))
            return false;
    return true;
}

enum tr_how tr_how(const struct trans *t)
{
    if (t->i->encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && t->i->encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return HOW_STEP;
    switch (t->i->mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        if (!plain_operands(t))
            return HOW_SYSTEM;
        /* moffs has no ModRM to put the address into */
        return t->i->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (t->i->opcode & 0xfc) == 0xa0 ? HOW_SPECIAL : HOW_GPR;
    case ZYDIS_MNEMONIC_MOVSD:
    case ZYDIS_MNEMONIC_CMPSD:
        return t->i->meta.category == ZYDIS_CATEGORY_STRINGOP ? HOW_SYSTEM : HOW_VECTOR;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return t->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY && t->op[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ? HOW_SPECIAL
                                                                                                           : HOW_GPR;
    default:
        break;
    }
    enum tr_how h = (enum tr_how)tr_how_table[t->i->mnemonic];
    return h == HOW_STEP ? HOW_VECTOR : h;
}

static bool emit_one(struct trans *t)
{
    const struct engine_tuning *tune = &t->x->v->tuning;
    uint32_t n = t->e.n;
    unsigned nrecs = t->nrecs, nstubs = t->nstubs;
    enum tr_how h = tr_how(t);
    bool ok;

    t->commit = 0;
    if (h == HOW_SPECIAL || h == HOW_SYSTEM)
        t->r10_group = -1;
    switch (h) {
    case HOW_GPR:
        ok = rewrite_gpr(t);
        break;
    case HOW_VECTOR:
        ok = rewrite_vector(t);
        break;
    case HOW_STACK:
        ok = emit_stack(t);
        break;
    case HOW_FLOW:
        ok = emit_flow(t);
        break;
    case HOW_SPECIAL:
        ok = emit_special(t);
        break;
    case HOW_SYSTEM:
        ok = emit_system(t);
        break;
    default:
        ok = false;
        break;
    }
    if (ok && (!t->kept_regs || loop_keeps(t, n))) {
        if (unlikely(tune->spoil.n && tune->spoil.mnemonic == t->i->mnemonic))
            em_bytes(&t->e, tune->spoil.code, tune->spoil.n);
        return true;
    }
    t->stepped = true;
    t->e.n = n;
    t->nrecs = nrecs;
    t->nstubs = nstubs;
    t->commit = 0;
    struct xrec *r = tr_rec(t, X_STEP, t->off);
    r->op = (uint16_t)t->i->mnemonic;
    tr_exit(t, r);
    t->ended = true;
    return true;
}

static void begin(struct trans *t, gpa_t gpa)
{
    struct tblock *b = t->b;

    b->gpa = gpa;
    b->gpa2 = NO_GPA;
    b->page = t->page;
    b->kind = t->kind;
    b->start = t->base;
    if (t->kind & KIND_PIC) { /* R10 is the linear address of the entry */
        em_lea(&t->e, R10, HMEM(R10, -t->off));
        em_store(&t->e, R10, HGS(offsetof(struct xlate, page_va) + 8 * t->ctx));
    }
    b->entry = t->base + t->e.n;
}

static bool decode(struct trans *t, const ZydisDecoder *d, unsigned at, unsigned avail)
{
    struct tr_insn *in = &t->in[t->ninsns];

    in->raw = t->code + at;
    in->group = 0;
    if (ZYAN_FAILED(ZydisDecoderDecodeFull(d, in->raw, avail, &in->i, in->op)))
        return false;
    /* With 32-bit addresses Zydis 4.0 takes "no base, disp32" in a SIB for R13D when the base's extension bit is set.
     */
    if (in->i.raw.modrm.mod == 0 && in->i.raw.modrm.rm == 4 && in->i.raw.sib.base == 5 && in->i.address_width == 32)
        for (unsigned k = 0; k < in->i.operand_count_visible; k++)
            if (in->op[k].type == ZYDIS_OPERAND_TYPE_MEMORY) {
                in->op[k].mem.base = ZYDIS_REGISTER_NONE;
                in->op[k].mem.disp.has_displacement = true;
                in->op[k].mem.disp.value = in->i.raw.disp.value;
            }
    return true;
}

static void finish(struct trans *t, unsigned bytes)
{
    struct xlate *x = t->x;
    struct tblock *b = t->b;

    t->side[t->nside].host = (uint16_t)t->e.n; /* where stubs begin */
    t->side[t->nside].commit = 0;
    cross_stubs(t);
    cold_stubs(t);
    assert(!t->e.full);
    b->end = t->base + t->e.n;
    b->bytes = (uint16_t)bytes;
    b->n = (uint16_t)t->nside;
    b->recs = t->recs;
    b->nrecs = t->nrecs;
    x->code.meta_pos -= (uint32_t)((TR_RECS - t->nrecs) * sizeof(struct xrec)) & ~15U;
    b->side = codemem_meta(&x->code, (t->nside + 1) * sizeof(struct xside));
    memcpy(b->side, t->side, (t->nside + 1) * sizeof(struct xside));
    codemem_commit(&x->code, t->e.n, b->cold_end - b->cold, b);
    x->st.blocks++;
    x->st.insns += t->nside;
    x->st.code_bytes += t->e.n + b->cold_end - b->cold;
}

/* Marks the lines of code, copies them; a change behind our back moves the generation and drops the block. */
static void take_bytes(struct xlate *x, gpa_t gpa, const uint8_t *host, uint8_t *to, unsigned n)
{
    mem_code_mark(x->v->mem, gpa, n);
    memcpy(to, host, n);
}

/* Copies what may belong to the instruction at `at`, line by line. */
static void fetch(struct trans *t, const struct xl_source *s, unsigned avail, unsigned *have, unsigned at)
{
    while (*have < avail && *have < at + 15) {
        unsigned n = (unsigned)(64 - ((s->gpa + *have) & 63));

        n = n > avail - *have ? avail - *have : n;
        take_bytes(t->x, s->gpa + *have, s->host + *have, t->code + *have, n);
        *have += n;
    }
}

/* The first instruction goes on on the next page. False: that is not it. */
static bool crosses(struct trans *t, const struct xl_source *s, const ZydisDecoder *d, unsigned have)
{
    if (s->gpa2 == NO_GPA || have >= 15)
        return false;
    take_bytes(t->x, s->gpa2, s->host2, t->code + have, 15 - have);
    if (!decode(t, d, 0, 15))
        return false;
    t->b->gpa2 = s->gpa2;
    t->single = true;
    return true;
}

/* Behind these nothing of the block can run: no use to decode further. */
static bool ends_block(const ZydisDecodedInstruction *i)
{
    switch (i->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_PAUSE:
    case ZYDIS_MNEMONIC_HLT:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_UD2:
        return true;
    default:
        return false;
    }
}

/* What comes behind it cannot be compared. */
static bool reads_clock(const ZydisDecodedInstruction *i)
{
    return i->mnemonic == ZYDIS_MNEMONIC_RDTSC || i->mnemonic == ZYDIS_MNEMONIC_RDTSCP;
}

/* Decodes what may become the block. False: not even the first instruction. */
static bool decode_ahead(struct trans *t, const struct xl_source *s, unsigned avail)
{
    unsigned have = 0, at = 0, limit = t->x->one_insn ? 1 : TR_INSNS;
    ZydisDecoder d;

    ZydisDecoderInit(&d, t->m64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32,
                     t->m64 ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
    /* A 66 prefix on a near branch in 64-bit mode: as x86/decode.c has it. */
    ZydisDecoderEnableMode(&d, ZYDIS_DECODER_MODE_AMD_BRANCHES, __builtin_cpu_is("amd") ? ZYAN_TRUE : ZYAN_FALSE);
    while (t->ninsns < limit) {
        struct tr_insn *in = &t->in[t->ninsns];

        if (t->ninsns && t->ctx != CTX_USER && xl_block_begins(t->x, s->lin + at, s->gpa + at, t->kind))
            break; /* the rest is there */
        fetch(t, s, avail, &have, at);
        if (!(at < have && decode(t, &d, at, have - at))) {
            if (t->ninsns) {
                t->crossing = have - at < 15 && have == avail;
                break;
            }
            if (!crosses(t, s, &d, have))
                return false;
        }
        in->off = (uint16_t)((s->lin & ~PAGE_MASK) + at);
        in->soft = (t->kind & KIND_WIN) && xl_site_adapted(t->x, (s->gpa & PAGE_MASK) + in->off);
        at += in->i.length;
        t->ninsns++;
        if (t->single || ends_block(&in->i) || (t->x->verify && reads_clock(&in->i)))
            break;
    }
    return true;
}

/* For whatever comes next, and the way out. */
static bool room_left(const struct trans *t)
{
    return t->nrecs < TR_RECS - 56 && t->nstubs < TR_RECS - 56 && t->e.n < TR_MAIN - 1536;
}

static void one(struct trans *t)
{
    struct xside *side = &t->side[t->nside];
    bool shadow = t->shadow;

    *side = (struct xside){ .host = (uint16_t)t->e.n, .guest = (uint16_t)t->off, .shadow = shadow };
    t->shadowed = shadow;
    if (t->ctx == CTX_USER && t->m64 && xl_direct_foreign(t->i->mnemonic))
        xl_direct_note(t->x, (t->b->gpa & PAGE_MASK) + (uint32_t)t->off + t->i->raw.prefix_count);
    emit_one(t);
    if (shadow)
        t->shadow = t->shadowed = false;
    side->commit = (uint16_t)(t->commit ? t->commit : t->e.n);
    t->nside++;
}

/* An instruction that cannot be decoded: the interpreter raises its fault. */
static void undecodable(struct trans *t)
{
    t->side[0] = (struct xside){ .host = (uint16_t)t->e.n, .guest = (uint16_t)t->off };
    tr_exit(t, tr_rec(t, X_STEP, t->off));
    t->side[0].commit = (uint16_t)t->e.n;
    t->nside = 1;
    t->stepped = true;
}

struct tblock *xl_translate(struct xlate *x, const struct xl_source *s)
{
    struct trans *t = x->scratch;
    unsigned avail = (unsigned)(PAGE_SIZE - (s->lin & ~PAGE_MASK));

    memset(t, 0, offsetof(struct trans, in));
    t->x = x;
    t->kind = s->kind;
    t->ctx = kind_ctx(s->kind);
    t->m64 = (s->kind & KIND_MODE) == X86_MODE_64;
    t->r10_group = -1;
    codemem_reserve(&x->code, TR_CODE, TR_COLD, TR_META);
    if (avail > TR_BYTES)
        avail = TR_BYTES;
    t->b = codemem_meta(&x->code, sizeof(*t->b));
    *t->b = (struct tblock){ 0 };
    t->recs = codemem_meta(&x->code, TR_RECS * sizeof(struct xrec));
    t->base = codemem_here(&x->code);
    t->e = (struct emit){ .p = x->code.rw + t->base, .max = TR_MAIN };
    t->page = s->lin & PAGE_MASK;
    t->off = (int32_t)(s->lin & ~PAGE_MASK);
    begin(t, s->gpa);
    if (!decode_ahead(t, s, avail)) {
        undecodable(t);
        t->ended = true;
    } else if (!(t->kind & KIND_SPLIT)) {
        loop_find(t);
        group_find(t);
        if (t->loop)
            loop_begin(t);
    }
    for (unsigned k = 0; k < t->ninsns && !t->ended && room_left(t); k++) {
        t->g = &t->in[k];
        t->i = &t->g->i;
        t->op = t->g->op;
        t->raw = t->g->raw;
        t->next = t->off + t->i->length;
        one(t);
        t->off = t->next;
    }
    if (!t->ended) {
        t->next = t->off;
        flow_fall_through(t);
    }
    t->e.max = TR_CODE;
    finish(t, (unsigned)(t->off - (int32_t)(s->lin & ~PAGE_MASK)));
    if (unlikely(x->verify != NULL))
        xl_verify_note(t);
    if (xl_traced(x))
        xl_trace_block(t);
    return t->b;
}
