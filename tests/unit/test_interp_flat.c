/* SPDX-License-Identifier: MIT */
/*
 * 32-bit addresses in flat segments, which an engine may check by a short cut: it must agree with the full check
 * at the ends of the segment, and must not be taken by any other kind of segment.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "engine_tests.h"
#include "interp_machine.h"

enum { WORD = 0x44332211, FLAT_DATA = 3 | X86_SEG_S | X86_SEG_P | X86_SEG_DB | X86_SEG_G };

#define LOAD "\x8b\x03\xf4"                         /* mov eax, [ebx]; hlt */
#define LOAD_SS "\x8b\x45\x00\xf4"                  /* mov eax, [ebp]; hlt */
#define STORE "\x89\x03\xf4"                        /* mov [ebx], eax; hlt */
#define LOAD8 "\x8a\x03\xf4"                        /* mov al, [ebx]; hlt */
#define LOAD_SIB "\x8b\x84\x8b\x01\x00\x00\x00\xf4" /* mov eax, [ebx + ecx * 4 + 1]; hlt */
#define PUSH "\x50\xf4"                             /* push eax; hlt */

struct access {
    uint32_t base, limit, attr, off;
};

/* Runs code in compatibility mode with DS and SS so; returns the vector or -1. */
static int run32(struct im *t, const struct access *a, const char *code, size_t len)
{
    struct cpu_state *c = im_edit(t);
    const struct x86_seg s = { .base = a->base, .limit = a->limit, .attr = a->attr, .sel = 16 };
    c->seg[X86_CS] =
        (struct x86_seg){ .limit = ~0U, .sel = 24, .attr = 0xb | X86_SEG_S | X86_SEG_P | X86_SEG_DB | X86_SEG_G };
    c->seg[X86_DS] = c->seg[X86_SS_SEG] = s;
    c->gpr[X86_RBX] = c->gpr[X86_RBP] = a->off;
    c->gpr[X86_RSP] = len == sizeof(PUSH) - 1 ? a->off : IM_STACK; /* else an exception needs a place */
    c->gpr[X86_RAX] = 0;
    im_done(t);
    im_put64(t, IM_DATA, WORD);
    assert_int_equal(im_exec(t, code, len), EXIT_HLT);
    return im_vector(t);
}
#define RUN32(t, a, code) run32((t), (a), (code), sizeof(code) - 1)

static void loads(const struct engine_ops *ops, const struct access *a)
{
    struct im *t = im_new(ops);
    assert_int_equal(RUN32(t, a, LOAD), -1);
    assert_int_equal(t->c->gpr[X86_RAX], WORD);
    im_free(t);
}

static void faults(const struct engine_ops *ops, const struct access *a)
{
    struct im *t = im_new(ops);
    assert_int_equal(RUN32(t, a, LOAD), X86_GP);
    im_free(t);
}

static void test_flat(void **state)
{
    loads(*state, &(struct access){ 0, UINT32_MAX, FLAT_DATA, IM_DATA });
    loads(*state, &(struct access){ 0x1000, UINT32_MAX, FLAT_DATA, IM_DATA - 0x1000 });
    /* The linear address wraps; the offset does not. */
    loads(*state, &(struct access){ IM_DATA + 0x1000, UINT32_MAX, FLAT_DATA, 0xfffff000 });
    loads(*state, &(struct access){ IM_DATA + 4, UINT32_MAX, FLAT_DATA, 0xfffffffc });
    faults(*state, &(struct access){ IM_DATA + 3, UINT32_MAX, FLAT_DATA, 0xfffffffd });
    faults(*state, &(struct access){ 0, UINT32_MAX, FLAT_DATA, 0xffffffff });
}

static void test_offset_wraps(void **state)
{
    const struct access a = { 0, UINT32_MAX, FLAT_DATA, 0xfffffff7 };
    struct im *t = im_new(*state);
    im_edit(t)->gpr[X86_RCX] = (IM_DATA + 8) / 4;
    im_done(t);
    assert_int_equal(RUN32(t, &a, LOAD_SIB), -1);
    assert_int_equal(t->c->gpr[X86_RAX], WORD);
    im_free(t);
}

static void test_byte_at_end(void **state)
{
    const struct access a = { IM_DATA + 1, UINT32_MAX, FLAT_DATA, UINT32_MAX };
    struct im *t = im_new(*state);
    assert_int_equal(RUN32(t, &a, LOAD8), -1);
    assert_int_equal(t->c->gpr[X86_RAX], WORD & 0xff);
    im_free(t);
}

static void test_stack(void **state)
{
    const struct access end = { IM_DATA + 3, UINT32_MAX, FLAT_DATA, 0xfffffffd },
                        push = { IM_DATA + 8, UINT32_MAX, FLAT_DATA, 0 };
    struct im *t = im_new(*state);
    assert_int_equal(RUN32(t, &push, PUSH), -1); /* ESP 0 wraps to 0xfffffffc, linear IM_DATA + 4 */
    assert_int_equal(t->c->gpr[X86_RSP], 0xfffffffc);
    assert_int_equal(im_get64(t, IM_DATA), WORD);
    im_free(t);
    t = im_new(*state);
    assert_int_equal(RUN32(t, &end, LOAD_SS), X86_SS);
    im_free(t);
}

static void test_not_flat(void **state)
{
    loads(*state, &(struct access){ 0, IM_DATA + 3, FLAT_DATA, IM_DATA });
    faults(*state, &(struct access){ 0, IM_DATA + 2, FLAT_DATA, IM_DATA });
    faults(*state, &(struct access){ 0, UINT32_MAX, FLAT_DATA | 4, IM_DATA }); /* expand-down: nothing is above 4 GiB */
    faults(*state, &(struct access){ 0, UINT32_MAX, 9 | (FLAT_DATA & ~0xf), IM_DATA }); /* execute-only code */
    loads(*state, &(struct access){ 0, UINT32_MAX, 0xb | (FLAT_DATA & ~0xf), IM_DATA });
    loads(*state, &(struct access){ 0, UINT32_MAX, 1 | (FLAT_DATA & ~0xf), IM_DATA });
    static const uint32_t no_write[] = { 1, 0xb };
    for (size_t i = 0; i < ARRAY_LEN(no_write); i++) {
        const struct access a = { 0, UINT32_MAX, no_write[i] | (FLAT_DATA & ~0xf), IM_DATA };
        struct im *t = im_new(*state);
        assert_int_equal(RUN32(t, &a, STORE), X86_GP);
        assert_int_equal(im_get64(t, IM_DATA), WORD);
        im_free(t);
    }
    faults(*state, &(struct access){ 0, UINT32_MAX, FLAT_DATA | X86_SEG_UNUSABLE, IM_DATA });
}

/* FS and GS have a base and 4 GiB. base: of GS; off: what EBX or the instruction says. */
static int run_gs(struct im *t, uint32_t base, uint32_t off, bool constant)
{
    const struct access flat = { 0, UINT32_MAX, FLAT_DATA, off };
    char code[] = "\x65\xa1\0\0\0\0\xf4"; /* mov eax, gs:[off]; hlt */

    memcpy(code + 2, &off, 4);
    im_edit(t)->seg[X86_GS] = (struct x86_seg){ .base = base, .limit = UINT32_MAX, .attr = FLAT_DATA, .sel = 16 };
    im_done(t);
    if (constant)
        return run32(t, &flat, code, sizeof(code) - 1);
    return RUN32(t, &flat, "\x65\x8b\x03\xf4"); /* mov eax, gs:[ebx]; hlt */
}

static void test_based(void **state)
{
    for (unsigned constant = 0; constant < 2; constant++) {
        struct im *t = im_new(*state);

        assert_int_equal(run_gs(t, IM_DATA - 0x1000, 0x1000, constant), -1);
        assert_int_equal(t->c->gpr[X86_RAX], WORD);
        assert_int_equal(run_gs(t, IM_DATA + 4, 0xfffffffc, constant), -1);
        assert_int_equal(t->c->gpr[X86_RAX], WORD);
        assert_int_equal(run_gs(t, IM_DATA + 3, 0xfffffffd, constant), X86_GP);
        im_free(t);
    }
}

/* 64-bit code may have left something in the upper halves of registers. */
static void test_upper_halves(void **state)
{
    static const struct {
        const char *code;
        uint32_t rip; /* behind the HLT */
    } c[] = {
        { "\xff\xe2\x90\x90\xf4\x90\xf4", IM_CODE + 7 }, /* jmp edx */
        { "\xff\xd2\x90\x90\xf4\x90\xf4", IM_CODE + 7 }, /* call edx */
        { "\x58\x90\x90\x90\xf4\x90\xf4", IM_CODE + 5 }, /* pop eax */
        { "\xc9\x90\x90\x90\xf4\x90\xf4", IM_CODE + 5 }, /* leave */
        { "\xc3\x90\x90\x90\xf4\x90\xf4", IM_CODE + 7 }, /* ret */
        { "\x8b\x45\0\x90\xf4\x90\xf4", IM_CODE + 5 },   /* mov eax, [ebp] */
    };
    const uint64_t junk = 0x7fff00000000;

    for (unsigned k = 0; k < ARRAY_LEN(c); k++) {
        struct im *t = im_new(*state);
        struct cpu_state *s = im_edit(t);

        s->seg[X86_CS] =
            (struct x86_seg){ .limit = ~0U, .sel = 24, .attr = 0xb | X86_SEG_S | X86_SEG_P | X86_SEG_DB | X86_SEG_G };
        s->gpr[X86_RDX] = junk | (IM_CODE + 6);
        s->gpr[X86_RSP] = s->gpr[X86_RBP] = junk | IM_DATA;
        im_done(t);
        im_put64(t, IM_DATA, IM_CODE + 6);
        assert_int_equal(im_exec(t, c[k].code, 7), EXIT_HLT);
        assert_int_equal(im_vector(t), -1);
        assert_int_equal(t->c->rip, c[k].rip);
        if (k == 2 || k == 5)
            assert_int_equal(t->c->gpr[X86_RAX], IM_CODE + 6);
        if (k == 3) {
            assert_int_equal((uint32_t)t->c->gpr[X86_RBP], IM_CODE + 6);
            assert_int_equal((uint32_t)t->c->gpr[X86_RSP], IM_DATA + 4);
        }
        im_free(t);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flat),         cmocka_unit_test(test_offset_wraps), cmocka_unit_test(test_byte_at_end),
        cmocka_unit_test(test_stack),        cmocka_unit_test(test_not_flat),     cmocka_unit_test(test_based),
        cmocka_unit_test(test_upper_halves),
    };
    return ENGINE_TESTS_RUN("interp_flat", tests);
}
