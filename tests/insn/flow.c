/* SPDX-License-Identifier: MIT */
/*
 * Branches of a block. Forward ones go anywhere, taken or not as the flags happen to be; backward ones belong to a
 * loop, whose counter nothing else writes, so that every block ends. Loops nest; their ends take different forms, of
 * which one also depends on the data. Calls go to a function inside the block, from one place or two.
 */
#include <string.h>

#include "block.h"

enum { JMP = -1 };

void flow_whole(struct block *b)
{
    for (unsigned k = 0; k < b->jumps; k++)
        if (b->jump[k].target > b->n)
            b->jump[k].target = (uint8_t)b->n;
}

/* The field of the next instruction that lies `off` bytes into it and is its last (but for `after` bytes). */
static void note(struct block *b, unsigned off, unsigned size, unsigned target, bool absolute)
{
    unsigned at = b->c->code_len + off;

    b->jump[b->jumps++] = (struct jump){
        .at = (uint16_t)at,
        .end = (uint16_t)(at + size),
        .size = (uint8_t)size,
        .target = (uint8_t)target,
        .absolute = absolute,
    };
}

static bool short_ok(const struct block *b, unsigned target)
{
    return target > b->n ? target - b->n <= 6 : b->c->code_len - b->start[target] < 110;
}

/* A branch to instruction number `target`, which may not exist yet: then the end of the block. */
static void add_jump(struct block *b, int cc, unsigned target)
{
    bool near8 = short_ok(b, target) && rng_pct(b->r, 70);
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
    note(b, n, disp, target, false);
    block_emit(b, x, n + disp);
}

/* LOOPNE, LOOPE, LOOP, JRCXZ (e0..e3); false if the target is too far. */
static bool add_count_jump(struct block *b, uint8_t op, unsigned target)
{
    uint8_t x[3] = { 0x67, op };
    bool asz = rng_pct(b->r, 20);

    if (!short_ok(b, target))
        return false;
    note(b, asz ? 2 : 1, 1, target, false);
    if (asz)
        x[2] = 0;
    block_emit(b, asz ? x : (uint8_t[]){ op, 0 }, asz ? 3 : 2);
    return true;
}

/* rax or rcx = address of instruction `target`. 64-bit: lea or mov; 32-bit: mov. */
static void add_address(struct block *b, unsigned reg, unsigned target)
{
    uint8_t lea[7] = { 0x48, 0x8d, (uint8_t)(0x05 | reg << 3) }, mov[5] = { (uint8_t)(0xb8 + reg) };

    if (b->c->mode32 || rng_pct(b->r, 30)) {
        note(b, 1, 4, target, true);
        block_emit(b, mov, sizeof(mov));
    } else {
        note(b, 3, 4, target, false);
        block_emit(b, lea, sizeof(lea));
    }
}

static unsigned forward(struct block *b, unsigned after, unsigned spread)
{
    return b->n + after + (unsigned)rng_below(b->r, spread);
}

static void add_forward(struct block *b)
{
    if (rng_pct(b->r, 12) && !(b->fixed >> X86_RCX & 1))
        add_count_jump(b, (uint8_t)(0xe0 + rng_below(b->r, 4)), forward(b, 1, 6));
    else if (rng_pct(b->r, 75))
        add_jump(b, (int)rng_below(b->r, 16), forward(b, 1, 8));
    else
        add_jump(b, JMP, forward(b, 1, 3));
}

static void add_ret(struct block *b)
{
    if (rng_pct(b->r, 80))
        block_emit(b, "\xc3", 1);
    else
        block_emit(b, "\xf3\xc3", 2);
}

/* Through a register, memory, or the stack; one of them with a target that depends on the flags. */
static void add_indirect(struct block *b)
{
    unsigned how = (unsigned)rng_below(b->r, b->fixed >> X86_RCX & 1 ? 3 : 4);
    bool m32 = b->c->mode32;

    if (!block_room(b, 4))
        return;
    flow_whole(b);
    switch (how) {
    case 0:
        add_address(b, X86_RAX, forward(b, 2, 4));
        block_emit(b, "\xff\xe0", 2); /* jmp rax */
        break;
    case 1:
        add_address(b, X86_RAX, forward(b, 3, 4));
        block_emit(b, "\x50", 1); /* push rax */
        add_ret(b);
        break;
    case 2:
        add_address(b, X86_RAX, forward(b, 3, 4));
        block_emit(b, (const uint8_t[]){ 0x48, 0x89, 0x43, 8 } + m32, 4 - m32); /* mov [rbx + 8], rax */
        block_emit(b, "\xff\x63\x08", 3);                                       /* jmp [rbx + 8] */
        break;
    default:
        add_address(b, X86_RAX, forward(b, 4, 3));
        add_address(b, X86_RCX, forward(b, 3, 6));
        uint8_t cmov[4] = { 0x48, 0x0f, (uint8_t)(0x40 + rng_below(b->r, 16)), 0xc1 };

        block_emit(b, cmov + m32, 4 - m32);
        block_emit(b, "\xff\xe0", 2);
    }
}

/* call 1f (perhaps twice); jmp 2f; 1: ...; ret; 2: */
static void add_call(struct block *b)
{
    bool twice = rng_pct(b->r, 40), indirect = rng_pct(b->r, 30), args = rng_pct(b->r, 20);
    unsigned f = b->n + 1, end;
    uint8_t call[5] = { 0xe8 }, jmp[5] = { 0xe9 }, ret[3] = { 0xc2, b->c->mode32 ? 4 : 8, 0 };

    if (!block_room(b, 10))
        return;
    flow_whole(b);
    f += (1U + indirect + args) * (1 + twice);
    for (unsigned k = 0; k <= twice; k++) {
        if (args)
            block_emit(b, "\x50", 1);
        if (indirect) {
            add_address(b, X86_RAX, f);
            block_emit(b, "\xff\xd0", 2);
        } else {
            note(b, 1, 4, f, false);
            block_emit(b, call, sizeof(call));
        }
    }
    end = f + 3;
    note(b, 1, 4, end, false);
    block_emit(b, jmp, sizeof(jmp));
    block_emit(b, "\x0f\x94\xc0", 3); /* setz al */
    block_emit(b, "\x0f\x92\xc2", 3); /* setb dl */
    if (args)
        block_emit(b, ret, 3);
    else
        add_ret(b);
}

/* ---- loops ---- */

static void open_loop(struct block *b)
{
    /* RCX, so that LOOP can end it; R15 only where it is */
    static const uint8_t cand[] = { X86_RBP, X86_RCX, X86_R15 };
    unsigned reg = cand[rng_below(b->r, b->c->mode32 ? 2 : 3)];

    if (b->loops == MAX_LOOPS || !block_room(b, 8) || (b->fixed >> reg & 1))
        return;
    flow_whole(b);
    block_mov(b, reg, 1 + (uint32_t)rng_below(b->r, b->loops ? 3 : 6));
    b->fixed |= 1U << reg;
    b->counters |= 1U << reg;
    b->loop[b->loops++] = (struct loop){ .counter = (uint8_t)reg, .head = (uint8_t)b->n };
}

/* sub reg32, 1, or dec reg: both set ZF at the end. */
static void count_down(struct block *b, unsigned reg)
{
    uint8_t sub[4] = { 0x41, 0x83, (uint8_t)(0xe8 | (reg & 7)), 1 },
            dec[3] = { 0x41, 0xff, (uint8_t)(0xc8 | (reg & 7)) };
    unsigned skip = reg < 8;

    if (rng_pct(b->r, 50))
        block_emit(b, sub + skip, 4 - skip);
    else
        block_emit(b, dec + skip, 3 - skip);
}

static void close_loop(struct block *b)
{
    if (!b->loops)
        return;
    struct loop l = b->loop[--b->loops];
    unsigned how = (unsigned)rng_below(b->r, 6);
    bool far = !short_ok(b, l.head);

    flow_whole(b);
    if (how == 0 && l.counter == X86_RCX && !far) {
        add_count_jump(b, 0xe2, l.head); /* loop */
    } else if (how == 1) {               /* sub; jz out; jmp head */
        count_down(b, l.counter);
        add_jump(b, 4, b->n + 2);
        add_jump(b, JMP, l.head);
    } else if (how == 2) { /* jcc out; sub; jnz head: the data may end it early */
        add_jump(b, (int)rng_below(b->r, 16), b->n + 3);
        count_down(b, l.counter);
        add_jump(b, 5, l.head);
    } else if (how == 3) { /* sub; jz out; jmp rax */
        count_down(b, l.counter);
        add_jump(b, 4, b->n + 3);
        add_address(b, X86_RAX, l.head);
        block_emit(b, "\xff\xe0", 2);
    } else {
        count_down(b, l.counter);
        add_jump(b, rng_pct(b->r, 50) ? 5 : 15, l.head); /* jnz, jg */
    }
    b->fixed &= ~(1U << l.counter);
    b->counters &= ~(1U << l.counter);
    b->g->backward++;
}

/* op eax or edx, [base + rdi * scale + disp] */
static void add_access(struct block *b, unsigned base)
{
    static const uint8_t op[] = { 0x03, 0x33, 0x8b, 0x89, 0x89 };
    uint8_t x[5] = { (uint8_t)(0x40 | base >> 3), op[rng_below(b->r, sizeof(op))],
                     (uint8_t)(0x44 | (rng_pct(b->r, 50) ? X86_RAX : X86_RDX) << 3),
                     (uint8_t)(rng_below(b->r, 4) << 6 | X86_RDI << 3 | (base & 7)), (uint8_t)rng_below(b->r, 64) };
    unsigned skip = base < 8;

    block_emit(b, x + skip, 5 - skip);
}

/* A loop over arrays, which is nothing but accesses and what moves them: a base or the index. */
static void add_array_loop(struct block *b)
{
    static const uint8_t bases[] = { X86_RBX, X86_RSP, X86_RSI, X86_R12, X86_R13 };
    unsigned counter = b->fixed >> X86_RCX & 1 ? X86_RBP : X86_RCX, head, n = 1 + (unsigned)rng_below(b->r, 4);
    unsigned moved = rng_pct(b->r, 70) ? X86_RDI : X86_RSI, skip = b->c->mode32;
    uint8_t move[4] = { 0x48, 0x83, (uint8_t)(0xc0 | moved), (uint8_t)(rng_below(b->r, 24) - 4) };

    if (!block_room(b, 10) || (b->fixed >> counter & 1))
        return;
    flow_whole(b);
    block_mov(b, X86_RSI, (uint32_t)(INSN_DATA + 0x400 + rng_below(b->r, 0x1800)));
    block_mov(b, X86_RDI, (uint32_t)rng_below(b->r, 0x40));
    block_mov(b, counter, 1 + (uint32_t)rng_below(b->r, 20));
    head = b->n;
    while (n--)
        add_access(b, bases[rng_below(b->r, b->c->mode32 ? 3 : 5)]);
    block_emit(b, move + skip, 4 - skip);
    count_down(b, counter);
    add_jump(b, 5, head);
    b->g->backward++;
}

void flow_add(struct block *b)
{
    switch (rng_below(b->r, 8)) {
    case 7:
        add_array_loop(b);
        break;
    case 0:
    case 1:
        add_forward(b);
        break;
    case 2:
        add_indirect(b);
        break;
    case 3:
        add_call(b);
        break;
    case 4:
    case 5:
        open_loop(b);
        break;
    default:
        close_loop(b);
    }
}

void flow_finish(struct block *b)
{
    while (b->loops)
        close_loop(b);
    for (unsigned k = 0; k < b->jumps; k++) {
        const struct jump *j = &b->jump[k];
        int64_t to = j->target < b->n ? b->start[j->target] : b->c->code_len;
        int64_t v = j->absolute ? (int64_t)INSN_CODE + b->c->code_off + to : to - j->end;

        if (j->size == 1 && (v > 127 || v < -128))
            v = 0;
        memcpy(b->c->code + j->at, &v, j->size);
    }
}
