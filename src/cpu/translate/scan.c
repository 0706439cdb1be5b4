/* SPDX-License-Identifier: MIT */
/*
 * Translating a block: instructions from one page, through conditional branches that are not taken, until one that
 * ends it. What is not listed here is the interpreter's (default deny).
 */
#include "cpu/translate/trans.h"
#include "mem/mem.h"

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

    *r = (struct xrec){ .kind = (uint8_t)kind, .off = off, .b = t->b, .shadow = t->shadow };
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

static void stubs(struct trans *t)
{
    for (unsigned k = 0; k < t->nstubs; k++) {
        struct xrec *r = &t->recs[t->stub[k].rec];

        em_land32(&t->e, t->stub[k].at);
        if (r->kind == X_LINK)
            r->stub = t->base + t->e.n;
        if (t->stub[k].form == STUB_CROSS) {
            flow_cross_stub(t, r);
            continue;
        }
        if (t->stub[k].form == STUB_MISS)
            em_mov(&t->e, R10, R11);
        tr_exit(t, r);
    }
}

enum how { HOW_STEP, HOW_GPR, HOW_VECTOR, HOW_STACK, HOW_FLOW, HOW_SPECIAL, HOW_SYSTEM };

static enum how how_gpr(ZydisMnemonic m)
{
    switch (m) {
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_ADC:
    case ZYDIS_MNEMONIC_SBB:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_INC:
    case ZYDIS_MNEMONIC_DEC:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_NOT:
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
    case ZYDIS_MNEMONIC_IMUL:
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
    case ZYDIS_MNEMONIC_SHL:
    case ZYDIS_MNEMONIC_SHR:
    case ZYDIS_MNEMONIC_SAR:
    case ZYDIS_MNEMONIC_ROL:
    case ZYDIS_MNEMONIC_ROR:
    case ZYDIS_MNEMONIC_RCL:
    case ZYDIS_MNEMONIC_RCR:
    case ZYDIS_MNEMONIC_SHLD:
    case ZYDIS_MNEMONIC_SHRD:
    case ZYDIS_MNEMONIC_BSF:
    case ZYDIS_MNEMONIC_BSR:
    case ZYDIS_MNEMONIC_BSWAP:
    case ZYDIS_MNEMONIC_XCHG:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_CMPXCHG8B:
    case ZYDIS_MNEMONIC_CMPXCHG16B:
    case ZYDIS_MNEMONIC_CBW:
    case ZYDIS_MNEMONIC_CWDE:
    case ZYDIS_MNEMONIC_CDQE:
    case ZYDIS_MNEMONIC_CWD:
    case ZYDIS_MNEMONIC_CDQ:
    case ZYDIS_MNEMONIC_CQO:
    case ZYDIS_MNEMONIC_LAHF:
    case ZYDIS_MNEMONIC_SAHF:
    case ZYDIS_MNEMONIC_CLC:
    case ZYDIS_MNEMONIC_STC:
    case ZYDIS_MNEMONIC_CMC:
    case ZYDIS_MNEMONIC_LFENCE:
    case ZYDIS_MNEMONIC_MFENCE:
    case ZYDIS_MNEMONIC_SFENCE:
    case ZYDIS_MNEMONIC_CRC32:
    case ZYDIS_MNEMONIC_MOVBE:
    case ZYDIS_MNEMONIC_POPCNT:
    case ZYDIS_MNEMONIC_TZCNT:
    case ZYDIS_MNEMONIC_LZCNT:
    case ZYDIS_MNEMONIC_ANDN:
    case ZYDIS_MNEMONIC_BEXTR:
    case ZYDIS_MNEMONIC_BLSI:
    case ZYDIS_MNEMONIC_BLSMSK:
    case ZYDIS_MNEMONIC_BLSR:
    case ZYDIS_MNEMONIC_BZHI:
    case ZYDIS_MNEMONIC_MULX:
    case ZYDIS_MNEMONIC_PDEP:
    case ZYDIS_MNEMONIC_PEXT:
    case ZYDIS_MNEMONIC_RORX:
    case ZYDIS_MNEMONIC_SARX:
    case ZYDIS_MNEMONIC_SHLX:
    case ZYDIS_MNEMONIC_SHRX:
    case ZYDIS_MNEMONIC_ADCX:
    case ZYDIS_MNEMONIC_ADOX:
    case ZYDIS_MNEMONIC_SETB:
    case ZYDIS_MNEMONIC_SETBE:
    case ZYDIS_MNEMONIC_SETL:
    case ZYDIS_MNEMONIC_SETLE:
    case ZYDIS_MNEMONIC_SETNB:
    case ZYDIS_MNEMONIC_SETNBE:
    case ZYDIS_MNEMONIC_SETNL:
    case ZYDIS_MNEMONIC_SETNLE:
    case ZYDIS_MNEMONIC_SETNO:
    case ZYDIS_MNEMONIC_SETNP:
    case ZYDIS_MNEMONIC_SETNS:
    case ZYDIS_MNEMONIC_SETNZ:
    case ZYDIS_MNEMONIC_SETO:
    case ZYDIS_MNEMONIC_SETP:
    case ZYDIS_MNEMONIC_SETS:
    case ZYDIS_MNEMONIC_SETZ:
    case ZYDIS_MNEMONIC_CMOVB:
    case ZYDIS_MNEMONIC_CMOVBE:
    case ZYDIS_MNEMONIC_CMOVL:
    case ZYDIS_MNEMONIC_CMOVLE:
    case ZYDIS_MNEMONIC_CMOVNB:
    case ZYDIS_MNEMONIC_CMOVNBE:
    case ZYDIS_MNEMONIC_CMOVNL:
    case ZYDIS_MNEMONIC_CMOVNLE:
    case ZYDIS_MNEMONIC_CMOVNO:
    case ZYDIS_MNEMONIC_CMOVNP:
    case ZYDIS_MNEMONIC_CMOVNS:
    case ZYDIS_MNEMONIC_CMOVNZ:
    case ZYDIS_MNEMONIC_CMOVO:
    case ZYDIS_MNEMONIC_CMOVP:
    case ZYDIS_MNEMONIC_CMOVS:
    case ZYDIS_MNEMONIC_CMOVZ:
        return HOW_GPR;
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
    case ZYDIS_MNEMONIC_LEAVE:
        return HOW_STACK;
    case ZYDIS_MNEMONIC_JMP:
    case ZYDIS_MNEMONIC_CALL:
    case ZYDIS_MNEMONIC_RET:
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_JECXZ:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JO:
    case ZYDIS_MNEMONIC_JNO:
    case ZYDIS_MNEMONIC_JB:
    case ZYDIS_MNEMONIC_JNB:
    case ZYDIS_MNEMONIC_JZ:
    case ZYDIS_MNEMONIC_JNZ:
    case ZYDIS_MNEMONIC_JBE:
    case ZYDIS_MNEMONIC_JNBE:
    case ZYDIS_MNEMONIC_JS:
    case ZYDIS_MNEMONIC_JNS:
    case ZYDIS_MNEMONIC_JP:
    case ZYDIS_MNEMONIC_JNP:
    case ZYDIS_MNEMONIC_JL:
    case ZYDIS_MNEMONIC_JNL:
    case ZYDIS_MNEMONIC_JLE:
    case ZYDIS_MNEMONIC_JNLE:
        return HOW_FLOW;
    case ZYDIS_MNEMONIC_LEA:
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_PAUSE:
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_CLD:
    case ZYDIS_MNEMONIC_RDTSCP:
        return HOW_SPECIAL;
    case ZYDIS_MNEMONIC_PUSHFQ:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_SWAPGS:
    case ZYDIS_MNEMONIC_STAC:
    case ZYDIS_MNEMONIC_CLAC:
    case ZYDIS_MNEMONIC_SYSCALL:
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_IRETQ:
    case ZYDIS_MNEMONIC_INVLPG:
    case ZYDIS_MNEMONIC_WRMSR:
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_STOSB:
    case ZYDIS_MNEMONIC_STOSW:
    case ZYDIS_MNEMONIC_STOSD:
    case ZYDIS_MNEMONIC_STOSQ:
    case ZYDIS_MNEMONIC_MOVSB:
    case ZYDIS_MNEMONIC_MOVSW:
    case ZYDIS_MNEMONIC_MOVSQ:
        return HOW_SYSTEM;
    default:
        return HOW_STEP;
    }
}

/* MOV of general registers and memory only; bit tests with a register only if both are registers. */
static bool plain_operands(const struct trans *t)
{
    for (unsigned k = 0; k < t->i.operand_count_visible; k++)
        if (t->op[k].type == ZYDIS_OPERAND_TYPE_REGISTER && !op_is_gpr(&t->op[k]))
            return false;
    return true;
}

static enum how how(const struct trans *t)
{
    if (t->i.encoding != ZYDIS_INSTRUCTION_ENCODING_LEGACY && t->i.encoding != ZYDIS_INSTRUCTION_ENCODING_VEX)
        return HOW_STEP;
    switch (t->i.mnemonic) {
    case ZYDIS_MNEMONIC_MOV:
        if (!plain_operands(t))
            return HOW_SYSTEM;
        /* moffs has no ModRM to put the address into */
        return t->i.opcode_map == ZYDIS_OPCODE_MAP_DEFAULT && (t->i.opcode & 0xfc) == 0xa0 ? HOW_SPECIAL : HOW_GPR;
    case ZYDIS_MNEMONIC_MOVSD:
        return t->i.meta.category == ZYDIS_CATEGORY_STRINGOP ? HOW_SYSTEM : HOW_VECTOR;
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return t->op[0].type == ZYDIS_OPERAND_TYPE_MEMORY && t->op[1].type != ZYDIS_OPERAND_TYPE_IMMEDIATE ? HOW_SPECIAL
                                                                                                           : HOW_GPR;
    default:
        break;
    }
    enum how h = how_gpr(t->i.mnemonic);
    return h == HOW_STEP ? HOW_VECTOR : h;
}

static bool emit_one(struct trans *t)
{
    uint32_t n = t->e.n;
    unsigned nrecs = t->nrecs, nstubs = t->nstubs;
    bool ok;

    t->commit = 0;
    switch (how(t)) {
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
    if (ok)
        return true;
    t->e.n = n;
    t->nrecs = nrecs;
    t->nstubs = nstubs;
    t->commit = 0;
    struct xrec *r = tr_rec(t, X_STEP, t->off);
    r->op = (uint16_t)t->i.mnemonic;
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

/* The first instruction's fault is the interpreter's to raise; a later one only ends the block. */
static bool decode(struct trans *t, const ZydisDecoder *d, const uint8_t *code, unsigned avail)
{
    t->raw = code;
    return ZYAN_SUCCESS(ZydisDecoderDecodeFull(d, code, avail, &t->i, t->op));
}

static void finish(struct trans *t, unsigned bytes)
{
    struct xlate *x = t->x;
    struct tblock *b = t->b;

    t->side[t->nside].host = (uint16_t)t->e.n; /* where stubs begin */
    t->side[t->nside].commit = 0;
    stubs(t);
    b->end = t->base + t->e.n;
    b->bytes = (uint16_t)bytes;
    b->n = (uint16_t)t->nside;
    b->recs = t->recs;
    b->nrecs = t->nrecs;
    x->code.meta_pos -= (uint32_t)((TR_RECS - t->nrecs) * sizeof(struct xrec)) & ~15U;
    b->side = codemem_meta(&x->code, (t->nside + 1) * sizeof(struct xside));
    memcpy(b->side, t->side, (t->nside + 1) * sizeof(struct xside));
    codemem_commit(&x->code, t->e.n, b);
    x->st.blocks++;
    x->st.insns += t->nside;
    x->st.code_bytes += t->e.n;
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
    if (!decode(t, d, t->code, 15))
        return false;
    t->b->gpa2 = s->gpa2;
    t->single = true;
    return true;
}

static void one(struct trans *t, bool ok)
{
    t->side[t->nside].host = (uint16_t)t->e.n;
    t->side[t->nside].guest = (uint16_t)t->off;
    t->side[t->nside].shadow = t->shadow;
    bool shadow = t->shadow;
    if (ok) {
        t->next = t->off + t->i.length;
        emit_one(t);
    } else {
        tr_exit(t, tr_rec(t, X_STEP, t->off));
        t->ended = true;
    }
    if (shadow)
        t->shadow = false;
    t->side[t->nside++].commit = (uint16_t)(t->commit ? t->commit : t->e.n);
}

struct tblock *xl_translate(struct xlate *x, const struct xl_source *s)
{
    struct trans *t = x->scratch;
    unsigned kind = x->kind;
    gva_t lin = s->lin;
    unsigned avail = (unsigned)(PAGE_SIZE - (lin & ~PAGE_MASK)), have = 0, at = 0;
    ZydisDecoder d;

    memset(t, 0, offsetof(struct trans, i));
    t->x = x;
    t->kind = kind;
    t->ctx = kind_ctx(kind);
    t->m64 = (kind & KIND_MODE) == X86_MODE_64;
    codemem_reserve(&x->code, TR_CODE, TR_META);
    if (avail > TR_BYTES)
        avail = TR_BYTES;
    ZydisDecoderInit(&d, t->m64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32,
                     t->m64 ? ZYDIS_STACK_WIDTH_64 : ZYDIS_STACK_WIDTH_32);
    t->b = codemem_meta(&x->code, sizeof(*t->b));
    t->recs = codemem_meta(&x->code, TR_RECS * sizeof(struct xrec));
    t->base = codemem_here(&x->code);
    t->e = (struct emit){ .p = x->code.rw + t->base, .max = TR_MAIN };
    t->page = lin & PAGE_MASK;
    t->off = (int32_t)(lin & ~PAGE_MASK);
    begin(t, s->gpa);
    while (!t->ended && !t->single && t->nside < TR_INSNS && t->nrecs < TR_RECS - 56 && t->e.n < TR_MAIN - 512) {
        fetch(t, s, avail, &have, at);
        bool ok = at < have && decode(t, &d, t->code + at, have - at);
        if (!ok && t->nside) {
            t->crossing = have - at < 15 && have == avail;
            break;
        }
        if (!ok)
            ok = crosses(t, s, &d, have);
        one(t, ok);
        at = ok ? at + t->i.length : have;
        t->off = t->next;
    }
    if (!t->ended) {
        t->next = t->off;
        flow_fall_through(t);
    }
    t->e.max = TR_CODE;
    finish(t, at);
    return t->b;
}
