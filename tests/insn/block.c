/* SPDX-License-Identifier: MIT */
/*
 * Blocks: 2 to 32 instructions with branches among them. A few registers hold addresses and are written by nothing, so
 * that memory operands stay inside the pages whatever the other instructions compute; one more counts a loop. Branches
 * go forward, but for the loop; calls go to a piece that returns. A fault or trap may still end a block early.
 */
#include <string.h>

#include "gen.h"

enum { MAX_INSNS = 32, MAX_BYTES = INSN_CODE_MAX - 16, COUNTER = X86_RBP, TRIES = 60 };

struct jump { /* a displacement to be filled in when its target is known */
    uint16_t at, end;
    uint8_t size, target; /* bytes; number of the instruction */
};

struct block {
    struct gen *g;
    struct rng *r;
    struct insn_case *c;
    uint32_t fixed; /* bit per register that must keep its value */
    unsigned n;     /* instructions so far */
    uint16_t start[MAX_INSNS + 40];
    unsigned jumps;
    struct jump jump[MAX_INSNS];
    unsigned loop_at; /* number of the loop's first instruction, 0 = no loop open */
};

static int gpr_of(ZydisRegister reg)
{
    ZydisRegisterClass cl = ZydisRegisterGetClass(reg);
    int id = ZydisRegisterGetId(reg);

    if (cl == ZYDIS_REGCLASS_GPR8)
        return reg >= ZYDIS_REGISTER_AH && reg <= ZYDIS_REGISTER_BH ? (int)(reg - ZYDIS_REGISTER_AH)
               : id > 7                                             ? id - 4
                                                                    : id;
    return cl == ZYDIS_REGCLASS_GPR16 || cl == ZYDIS_REGCLASS_GPR32 || cl == ZYDIS_REGCLASS_GPR64 ? id : -1;
}

static bool is_fixed(const struct block *b, ZydisRegister reg)
{
    int id = gpr_of(reg);

    return id >= 0 && (b->fixed >> id & 1);
}

static bool is_pointer(const struct block *b, ZydisRegister reg)
{
    return is_fixed(b, reg) && gpr_of(reg) != COUNTER;
}

static void emit(struct block *b, const void *bytes, unsigned len)
{
    b->start[b->n++] = b->c->code_len;
    memcpy(b->c->code + b->c->code_len, bytes, len);
    b->c->code_len = (uint16_t)(b->c->code_len + len);
}

static bool room(const struct block *b, unsigned insns)
{
    return b->n + insns <= MAX_INSNS && b->c->code_len + insns * 15 <= MAX_BYTES;
}

/* ---- plain instructions ---- */

static bool unfit(const struct gen_insn *i)
{
    switch (i->z.meta.category) {
    case ZYDIS_CATEGORY_SYSTEM:
    case ZYDIS_CATEGORY_INTERRUPT:
    case ZYDIS_CATEGORY_IO:
    case ZYDIS_CATEGORY_IOSTRINGOP:
    case ZYDIS_CATEGORY_STRINGOP:
    case ZYDIS_CATEGORY_CALL:
    case ZYDIS_CATEGORY_RET:
    case ZYDIS_CATEGORY_COND_BR:
    case ZYDIS_CATEGORY_UNCOND_BR:
    case ZYDIS_CATEGORY_AVX2GATHER:
    case ZYDIS_CATEGORY_GATHER:
    case ZYDIS_CATEGORY_SCATTER:
    case ZYDIS_CATEGORY_XSAVE:
    case ZYDIS_CATEGORY_DECIMAL: /* the flags they leave undefined do differ */
        return true;
    default:
        break;
    }
    switch ((int)i->z.mnemonic) {
    case ZYDIS_MNEMONIC_LDS:
    case ZYDIS_MNEMONIC_LES:
    case ZYDIS_MNEMONIC_LSS:
    case ZYDIS_MNEMONIC_LFS:
    case ZYDIS_MNEMONIC_LGS:
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE:
    case ZYDIS_MNEMONIC_POPA:
    case ZYDIS_MNEMONIC_POPAD:
    case ZYDIS_MNEMONIC_POPF:
    case ZYDIS_MNEMONIC_POPFD:
    case ZYDIS_MNEMONIC_POPFQ:
    case ZYDIS_MNEMONIC_UD0:
    case ZYDIS_MNEMONIC_UD1:
    case ZYDIS_MNEMONIC_UD2:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_VERR:
    case ZYDIS_MNEMONIC_VERW:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_FXRSTOR:
    case ZYDIS_MNEMONIC_FXRSTOR64:
    case ZYDIS_MNEMONIC_LDMXCSR:
    case ZYDIS_MNEMONIC_VLDMXCSR:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FLDCW:
    case ZYDIS_MNEMONIC_FNSTENV: /* store the pointers, which the host keeps or not by model */
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
        return true;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        return rng_pct(i->r, 70);
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return i->ops[0].type == ZYDIS_OPERAND_TYPE_MEMORY && i->ops[1].type == ZYDIS_OPERAND_TYPE_REGISTER;
    default:
        return false;
    }
}

/* Makes one memory operand stay inside the pages by its displacement alone; false if it cannot. */
static bool solve_mem(const struct block *b, struct gen_insn *i, const ZydisDecodedOperand *o)
{
    const ZydisDecodedOperandMem *m = &o->mem;
    unsigned size = o->size / 8 ? o->size / 8 : 1, dsize = i->z.raw.disp.size / 8;
    uint64_t align = size >= 64 ? 64 : 1UL << (63 - __builtin_clzl(size)), d;

    if (m->type == ZYDIS_MEMOP_TYPE_AGEN)
        return true;
    if (m->segment == ZYDIS_REGISTER_FS || m->segment == ZYDIS_REGISTER_GS || m->index != ZYDIS_REGISTER_NONE)
        return i->z.mnemonic == ZYDIS_MNEMONIC_XLAT && is_pointer(b, m->base);
    if (size > 1024 || i->z.address_width == 16)
        return false;
    if (o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
        return is_pointer(b, m->base);
    if (rng_pct(i->r, 8))
        align = 1;
    if (m->base == ZYDIS_REGISTER_RIP || m->base == ZYDIS_REGISTER_EIP || m->base == ZYDIS_REGISTER_NONE) {
        if (dsize != 4)
            return false;
        d = (INSN_DATA + 0x400 + rng_below(i->r, 0x1000)) & ~(align - 1);
        if (m->base != ZYDIS_REGISTER_NONE)
            d -= i->ip + i->z.length;
    } else {
        if (!is_pointer(b, m->base))
            return false;
        d = (rng_below(i->r, dsize == 1 ? 256 : 1024) - (dsize == 1 ? 128 : 512)) & ~(align - 1);
    }
    memcpy(i->buf + i->z.raw.disp.offset, &d, dsize);
    return true;
}

static bool fits(const struct block *b, struct gen_insn *i)
{
    bool stack = i->z.meta.category == ZYDIS_CATEGORY_PUSH || i->z.meta.category == ZYDIS_CATEGORY_POP;

    if (unfit(i) || i->c->code_len + i->z.length > MAX_BYTES)
        return false;
    for (unsigned k = 0; k < i->z.operand_count; k++) {
        const ZydisDecodedOperand *o = &i->ops[k];

        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
            is_fixed(b, o->reg.value) &&
            !(stack && gpr_of(o->reg.value) == X86_RSP && o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN))
            return false;
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) &&
            ZydisRegisterGetClass(o->reg.value) == ZYDIS_REGCLASS_SEGMENT)
            return false;
        if (o->type == ZYDIS_OPERAND_TYPE_MEMORY && !solve_mem(b, i, o))
            return false;
    }
    return gen_decode(i);
}

static struct form *any_form(struct block *b)
{
    struct forms *f = b->g->f[b->c->mode32];
    unsigned m = (unsigned)rng_below(b->r, f->mnemonics), lo = f->first[m];

    if (rng_pct(b->r, 50)) /* mostly the old integer instructions */
        for (unsigned k = 0; k < 8; k++) {
            struct form *fm = &f->form[rng_below(b->r, f->n)];

            if (fm->isa_set == ZYDIS_ISA_SET_I86 || fm->isa_set == ZYDIS_ISA_SET_I386)
                return fm;
        }
    return &f->form[f->by_mnemonic[lo + rng_below(b->r, f->first[m + 1] - lo)]];
}

static void add_plain(struct block *b)
{
    struct gen_insn i = { .g = b->g, .r = b->r, .c = b->c, .solid = true, .fixed = b->fixed };

    i.ip = INSN_CODE + b->c->code_off + b->c->code_len;
    for (unsigned k = 0; k < TRIES; k++) {
        struct form *fm = any_form(b);

        if (!gen_encode(&i, fm) || isa_denied(&i.z, i.ops) || !fits(b, &i))
            continue;
        fm->hits++;
        emit(b, i.buf, i.z.length);
        return;
    }
}

/* ---- set pieces ---- */

/* What comes next belongs together: nothing may jump into its middle. */
static void whole(struct block *b)
{
    for (unsigned k = 0; k < b->jumps; k++)
        if (b->jump[k].target > b->n)
            b->jump[k].target = (uint8_t)b->n;
}

static void add_mov_imm(struct block *b, unsigned reg, uint32_t v)
{
    uint8_t x[5] = { (uint8_t)(0xb8 + reg) };

    memcpy(x + 1, &v, 4);
    emit(b, x, sizeof(x));
}

static void add_string(struct block *b)
{
    static const uint8_t op[] = { 0xa4, 0xa5, 0xa6, 0xa7, 0xaa, 0xab, 0xac, 0xad, 0xae, 0xaf };
    uint8_t x[4];
    unsigned n = 0;

    if (!room(b, 4))
        return;
    whole(b);
    add_mov_imm(b, X86_RSI, (uint32_t)(INSN_DATA + 0x400 + rng_below(b->r, 0x1800)));
    add_mov_imm(b, X86_RDI, (uint32_t)(INSN_DATA + 0x400 + rng_below(b->r, 0x1800)));
    add_mov_imm(b, X86_RCX, (uint32_t)rng_below(b->r, 20));
    if (rng_pct(b->r, 70))
        x[n++] = rng_pct(b->r, 70) ? 0xf3 : 0xf2;
    if (rng_pct(b->r, 25))
        x[n++] = 0x66;
    if (!b->c->mode32 && rng_pct(b->r, 40))
        x[n++] = 0x48;
    x[n++] = op[rng_below(b->r, sizeof(op))];
    emit(b, x, n);
}

/* A branch to instruction number `target`, which may not exist yet: then the end of the block. */
static void add_jump(struct block *b, int cc, unsigned target)
{
    bool near8 = target > b->n && target - b->n <= 6 && rng_pct(b->r, 70);
    uint8_t x[6] = { 0 };
    unsigned n = 0, disp = near8 ? 1 : 4;

    if (near8) {
        x[n++] = cc < 0 ? 0xeb : (uint8_t)(0x70 + cc);
    } else if (cc < 0) {
        x[n++] = 0xe9;
    } else {
        x[n++] = 0x0f;
        x[n++] = (uint8_t)(0x80 + cc);
    }
    b->jump[b->jumps++] = (struct jump){
        .at = (uint16_t)(b->c->code_len + n),
        .end = (uint16_t)(b->c->code_len + n + disp),
        .size = (uint8_t)disp,
        .target = (uint8_t)target,
    };
    emit(b, x, n + disp);
}

/* call 1f; jmp 2f; 1: ...; ret; 2: */
static void add_call(struct block *b)
{
    unsigned at = b->n;
    uint8_t call[5] = { 0xe8 };

    if (!room(b, 6) || b->jumps + 2 > MAX_INSNS)
        return;
    whole(b);
    b->jump[b->jumps++] = (struct jump){
        .at = (uint16_t)(b->c->code_len + 1),
        .end = (uint16_t)(b->c->code_len + 5),
        .size = 4,
        .target = (uint8_t)(at + 2),
    };
    emit(b, call, sizeof(call));
    uint16_t jmp_at = b->c->code_len;

    emit(b, "\xe9\0\0\0", 5);
    emit(b, "\x0f\x94\xc0", 3); /* setz al */
    emit(b, "\x0f\x92\xc2", 3); /* setb dl */
    if (rng_pct(b->r, 80))
        emit(b, "\xc3", 1);
    else
        emit(b, "\xf3\xc3", 2);
    b->jump[b->jumps++] = (struct jump){
        .at = (uint16_t)(jmp_at + 1), .end = (uint16_t)(jmp_at + 5), .size = 4, .target = (uint8_t)b->n
    };
}

/* lea rax, [rip + target]; jmp rax. 32-bit: mov eax, target; jmp eax. */
static void add_indirect(struct block *b)
{
    unsigned target = b->n + 2 + (unsigned)rng_below(b->r, 4);
    uint8_t lea[7] = { 0x48, 0x8d, 0x05 };

    if (!room(b, 2) || b->c->mode32 || b->jumps >= MAX_INSNS)
        return;
    whole(b);
    b->jump[b->jumps++] = (struct jump){
        .at = (uint16_t)(b->c->code_len + 3),
        .end = (uint16_t)(b->c->code_len + 7),
        .size = 4,
        .target = (uint8_t)target,
    };
    emit(b, lea, sizeof(lea));
    emit(b, "\xff\xe0", 2);
}

static void open_loop(struct block *b)
{
    if (b->loop_at || !room(b, 6) || b->fixed >> COUNTER & 1)
        return;
    whole(b);
    add_mov_imm(b, COUNTER, 1 + (uint32_t)rng_below(b->r, 5));
    b->fixed |= 1U << COUNTER;
    b->loop_at = b->n;
}

static void close_loop(struct block *b)
{
    if (!b->loop_at || b->jumps >= MAX_INSNS)
        return;
    whole(b);
    emit(b, "\x83\xed\x01", 3); /* sub ebp, 1 */
    add_jump(b, 5, b->loop_at);
    b->fixed &= ~(1U << COUNTER);
    b->loop_at = 0;
}

/* ---- the whole ---- */

static void resolve(struct block *b)
{
    for (unsigned k = 0; k < b->jumps; k++) {
        const struct jump *j = &b->jump[k];
        int32_t rel = (j->target < b->n ? b->start[j->target] : b->c->code_len) - j->end;

        if (j->size == 1 && (rel > 127 || rel < -128))
            rel = 0;
        memcpy(b->c->code + j->at, &rel, j->size);
    }
}

static void pointers(struct block *b)
{
    static const uint8_t cand[] = { X86_RBX, X86_R12, X86_R13, X86_R14 };
    struct insn_state *s = &b->c->in;

    s->gpr[X86_RSP] = INSN_STACK + 0xc00 + rng_below(b->r, 64) * 16;
    b->fixed = 1U << X86_RSP;
    for (unsigned k = 0; k < (b->c->mode32 ? 1 : ARRAY_LEN(cand)); k++) {
        if (k && rng_pct(b->r, 40))
            continue;
        s->gpr[cand[k]] = INSN_DATA + 0x400 + rng_below(b->r, 0x60) * 64;
        b->fixed |= 1U << cand[k];
    }
    s->rflags &= X86_FL_ARITH | X86_FL_IF | X86_FL_1 | X86_FL_ID;
    if (rng_pct(b->r, 90)) {
        s->fpu.mxcsr = (s->fpu.mxcsr & ~0x3fU) | 0x1f80;
        s->fpu.fcw |= 0x3f;
        s->fpu.fsw &= 0x7f00;
    }
}

void gen_block(struct gen *g, struct rng *r, struct insn_case *c)
{
    struct block b = { .g = g, .r = r, .c = c };
    unsigned want = 2 + (unsigned)rng_below(r, MAX_INSNS - 1);

    c->code_len = 0;
    c->code_off = (uint16_t)(rng_pct(r, 30) ? PAGE_SIZE - rng_below(r, 300) : 0x100 + rng_below(r, 0x1c00));
    pointers(&b);
    while (b.n < want && room(&b, 4)) {
        switch (rng_below(r, 20)) {
        case 0:
            add_jump(&b, (int)rng_below(r, 16), b.n + 1 + (unsigned)rng_below(r, 8));
            break;
        case 1:
            if (rng_pct(r, 50))
                add_jump(&b, -1, b.n + 1 + (unsigned)rng_below(r, 3));
            else
                add_indirect(&b);
            break;
        case 2:
            if (!b.loop_at)
                add_call(&b);
            break;
        case 3:
            add_string(&b);
            break;
        case 4:
            open_loop(&b);
            break;
        case 5:
            close_loop(&b);
            break;
        default:
            add_plain(&b);
        }
    }
    close_loop(&b);
    resolve(&b);
    c->insns = (uint16_t)b.n;
    c->in.rip = INSN_CODE + c->code_off;
}
