/* SPDX-License-Identifier: MIT */
/*
 * Handlers made of code: the #UD/#NM tests, the address and the TLB lookup of one instruction around its stub, ending
 * with a jump to the next uop. SSE and AVX in 64-bit mode only. What does not fit (a test fails, the TLB misses, the
 * store hit a frame with flags) jumps to the C handler or to finish, with the stack as on entry.
 *
 * Registers: RDI m, RSI u, R11 the TLB entry, RDX the host address; RAX and RCX are scratch. The stub keeps R11.
 */
#include "cpu/interp/vector_make.h"

#include <string.h>

enum { RAX, RCX, RDX };

static void put(struct vec_buf *o, unsigned byte)
{
    if (o->n < sizeof(o->b))
        o->b[o->n] = (uint8_t)byte;
    o->n++;
}
static void put_bytes(struct vec_buf *o, const void *p, unsigned n)
{
    const uint8_t *b = p;
    for (unsigned k = 0; k < n; k++)
        put(o, b[k]);
}
#define PUT(o, lit) put_bytes((o), (lit), sizeof(lit) - 1)
static void put32(struct vec_buf *o, uint32_t v)
{
    put_bytes(o, &v, 4);
}

/* Forward jumps to the slow end. */
struct jumps {
    unsigned n, at[8];
};

static void jump_slow(struct vec_buf *o, struct jumps *j, unsigned cc)
{
    put(o, 0x0f);
    put(o, 0x80 | cc);
    j->at[j->n++] = o->n;
    put32(o, 0);
}
enum { CC_Z = 4, CC_NZ = 5 };

/* test byte [rdi + off], bits */
static void put_test(struct vec_buf *o, size_t off, unsigned bits)
{
    PUT(o, "\xf6\x87");
    put32(o, (uint32_t)off);
    put(o, bits);
}

/* Little-endian: bit b of a field is in the byte at b / 8. */
#define FIELD(f, bit) (offsetof(struct interp, c.f) + (bit) / 8)

static void put_gate(struct vec_buf *o, struct jumps *j, enum vec_gate gate)
{
    if (gate == VEC_GATE_SSE) {
        put_test(o, FIELD(cr0, 0), X86_CR0_EM | X86_CR0_TS);
        jump_slow(o, j, CC_NZ);
        put_test(o, FIELD(cr4, 9), 1 << (9 % 8));
        jump_slow(o, j, CC_Z);
        return;
    }
    put_test(o, FIELD(cr0, 0), X86_CR0_TS);
    jump_slow(o, j, CC_NZ);
    put_test(o, FIELD(cr4, 18), 1 << (18 % 8));
    jump_slow(o, j, CC_Z);
    PUT(o, "\x8b\x87"); /* mov eax, [rdi + xcr0]; not eax; test al, bits */
    put32(o, (uint32_t)offsetof(struct interp, c.xcr0));
    PUT(o, "\xf7\xd0\xa8");
    put(o, gate == VEC_GATE_AVX ? 0x06 : 0xe6);
    jump_slow(o, j, CC_NZ);
}

/* Linear address into RAX. */
static void put_address(struct vec_buf *o, const struct x86_insn *i)
{
    PUT(o, "\x48\x8b\x87"); /* mov rax, [rdi + base] */
    put32(o, (uint32_t)(offsetof(struct interp, c.gpr) + i->base * 8));
    if (i->index != X86_REG_ZERO) {
        PUT(o, "\x48\x8b\x8f"); /* mov rcx, [rdi + index] */
        put32(o, (uint32_t)(offsetof(struct interp, c.gpr) + i->index * 8));
        PUT(o, "\x48\x8d\x84"); /* lea rax, [rax + rcx << scale + disp] */
        put(o, (unsigned)i->scale << 6 | RCX << 3 | RAX);
        put32(o, (uint32_t)i->disp);
    } else if (i->disp) {
        PUT(o, "\x48\x05"); /* add rax, disp */
        put32(o, (uint32_t)i->disp);
    }
    if (i->seg != X86_SEG_NONE) {
        PUT(o, "\x48\x03\x87"); /* add rax, [rdi + seg.base] */
        put32(o, (uint32_t)(offsetof(struct interp, c.seg) + i->seg * sizeof(struct x86_seg) +
                            offsetof(struct x86_seg, base)));
    }
}

_Static_assert(sizeof(struct tlb_entry) == 32, "the shift below");

/* RAX to the host address in RDX, the entry in R11; a miss goes the slow way. */
static void put_tlb(struct vec_buf *o, struct jumps *j, unsigned len, bool store)
{
    PUT(o, "\x48\x8d\x88"); /* lea rcx, [rax + len - 1] */
    put32(o, len - 1);
    PUT(o, "\x49\x89\xc3\x49\xc1\xeb"); /* mov r11, rax; shr r11, 12 - 5 */
    put(o, PAGE_SHIFT - 5);
    PUT(o, "\x48\x81\xe1\x00\xf0\xff\xff"); /* and rcx, PAGE_MASK */
    PUT(o, "\x41\x81\xe3");                 /* and r11d, (TLB_SIZE - 1) << 5 */
    put32(o, (TLB_SIZE - 1) << 5);
    PUT(o, "\x4c\x03\x9f"); /* add r11, [rdi + tlb] */
    put32(o, (uint32_t)offsetof(struct interp, tlb));
    PUT(o, "\x49\x3b\x4b"); /* cmp rcx, [r11 + tag] */
    put(o, (unsigned)(store ? offsetof(struct tlb_entry, wtag) : offsetof(struct tlb_entry, rtag)));
    jump_slow(o, j, CC_NZ);
    PUT(o, "\x49\x8b\x53"); /* mov rdx, [r11 + addend]; add rdx, rax */
    put(o, (unsigned)offsetof(struct tlb_entry, addend));
    PUT(o, "\x48\x01\xc2");
}

static void put_jump_to(struct vec_buf *o, uop_fn fn)
{
    uint64_t to = (uint64_t)(uintptr_t)fn;

    PUT(o, "\x48\xb8"); /* mov rax, fn; jmp rax */
    put_bytes(o, &to, 8);
    PUT(o, "\xff\xe0");
}

static void land(struct vec_buf *o, const struct jumps *j)
{
    for (unsigned k = 0; k < j->n; k++) {
        int32_t rel = (int32_t)(o->n - (j->at[k] + 4));

        if (j->at[k] + 4 <= sizeof(o->b))
            memcpy(o->b + j->at[k], &rel, 4);
    }
}

bool vec_fast_emit(const struct x86_insn *i, const struct vec_op *op, const struct vec_buf *stub,
                   const struct vec_fast_ends *ends, struct vec_buf *out)
{
    struct jumps slow = { 0 }, hit = { 0 };
    bool store = op->kind == VEC_STORE;

    if ((op->gate != VEC_GATE_SSE && op->gate != VEC_GATE_AVX && op->gate != VEC_GATE_AVX512) || op->x87 ||
        op->kind > VEC_STORE)
        return false;
    if (op->kind != VEC_REG && (i->flags & X86_I_SLOW_EA))
        return false;
    put_gate(out, &slow, op->gate);
    if (op->kind != VEC_REG) {
        put_address(out, i);
        put_tlb(out, &slow, op->msize, store);
    }
    put_bytes(out, stub->b, stub->n - 1); /* all but its RET */
    if (store) {
        PUT(out, "\x49\x8b\x43"); /* mov rax, [r11 + fflags]; cmp byte [rax], 0 */
        put(out, (unsigned)offsetof(struct tlb_entry, fflags));
        PUT(out, "\x80\x38\x00");
        jump_slow(out, &hit, CC_NZ);
    }
    PUT(out, "\x48\x83\xc6"); /* add rsi, sizeof(uop); jmp [rsi] */
    put(out, sizeof(struct uop));
    PUT(out, "\xff\x26");
    land(out, &slow);
    put_jump_to(out, ends->slow);
    if (store) {
        land(out, &hit);
        put_jump_to(out, ends->stored);
    }
    return out->n <= sizeof(out->b);
}
_Static_assert(offsetof(struct uop, fn) == 0 && sizeof(struct uop) < 128, "jmp [rsi]");
