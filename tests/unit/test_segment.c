/* SPDX-License-Identifier: MIT */
/* Segment descriptors: parsing, limits, and the load checks for every type and privilege. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "x86/segment.h"

/* A descriptor of base 0, limit 0xfffff pages. */
static uint64_t desc(unsigned type, unsigned dpl, bool s, bool present)
{
    return 0x00c0000000000000UL | 0x000f00000000ffffUL |
           (uint64_t)(type | (unsigned)s << 4 | dpl << 5 | (unsigned)present << 7) << 40;
}

enum { DATA_RO = 0, DATA_RW = 2, DATA_DOWN = 6, CODE_X = 8, CODE_XR = 10, CODE_CONF = 14 };

static void parsing(void **state)
{
    struct x86_seg s = x86_seg_parse(0x1b, 0x12cf9a3456789abcUL, 0);

    (void)state;
    assert_int_equal(s.base, 0x12345678);
    assert_int_equal(s.limit, 0xf9abcfffUL & 0xffffffff);
    assert_int_equal(s.attr, 0xc09a);
    assert_int_equal(s.sel, 0x1b);
    s = x86_seg_parse(8, 0x0040920000000fffUL, 0);
    assert_int_equal(s.limit, 0xfff);
    s = x86_seg_parse(8, 0xff00890000000067UL, 0xffff8000);
    assert_int_equal(s.base, 0xffff8000ff000000UL);
}

static void limits(void **state)
{
    struct x86_seg s = { .limit = 0xff, .attr = X86_SEG_P | X86_SEG_S | DATA_RW };

    (void)state;
    assert_true(x86_seg_in_limit(&s, 0, 1));
    assert_true(x86_seg_in_limit(&s, 0xfc, 4));
    assert_false(x86_seg_in_limit(&s, 0xfd, 4));
    assert_false(x86_seg_in_limit(&s, 0x100, 1));
    s.attr = X86_SEG_P | X86_SEG_S | DATA_DOWN;
    assert_false(x86_seg_in_limit(&s, 0xff, 1));
    assert_true(x86_seg_in_limit(&s, 0x100, 4));
    assert_true(x86_seg_in_limit(&s, 0xffff, 1));
    assert_false(x86_seg_in_limit(&s, 0xffff, 2));
    s.attr |= X86_SEG_DB;
    assert_true(x86_seg_in_limit(&s, 0xffff, 2));
    assert_true(x86_seg_in_limit(&s, 0xffffffff, 1));
    assert_false(x86_seg_in_limit(&s, 0xffffffff, 2));
    /* conforming code has the same bit, but grows upwards */
    s.attr = X86_SEG_P | X86_SEG_S | CODE_CONF;
    assert_true(x86_seg_in_limit(&s, 0, 4));
}

static void locating(void **state)
{
    struct cpu_state *c = aligned_alloc(64, sizeof(*c));
    gva_t addr;

    (void)state;
    assert_non_null(c);
    memset(c, 0, sizeof(*c));
    c->gdtr = (struct x86_dtable){ .base = 0x1000, .limit = 0x1f };
    c->ldtr.attr = X86_SEG_UNUSABLE;
    assert_true(x86_desc_locate(c, 0x1b, 8, &addr));
    assert_int_equal(addr, 0x1018);
    assert_false(x86_desc_locate(c, 0x18, 16, &addr));
    assert_false(x86_desc_locate(c, 0x20, 8, &addr));
    assert_false(x86_desc_locate(c, 0x4, 8, &addr)); /* no LDT */
    c->ldtr = (struct x86_seg){ .base = 0x5000, .limit = 0xe, .sel = 8 };
    assert_true(x86_desc_locate(c, 0x4, 8, &addr));
    assert_int_equal(addr, 0x5000);
    assert_false(x86_desc_locate(c, 0xc, 8, &addr)); /* one byte short */
    free(c);
}

static void data_loads(void **state)
{
    static const struct {
        uint16_t sel;
        unsigned type, dpl, cpl;
        bool s, present;
        int vector; /* -1: fine */
    } cases[] = {
        { 0x10, DATA_RW, 0, 0, true, true, -1 },        { 0x10, DATA_RO, 0, 0, true, true, -1 },
        { 0x10, CODE_XR, 0, 0, true, true, -1 },        { 0x10, CODE_X, 0, 0, true, true, X86_GP },
        { 0x13, DATA_RW, 0, 0, true, true, X86_GP },    { 0x10, DATA_RW, 0, 3, true, true, X86_GP },
        { 0x13, DATA_RW, 3, 3, true, true, -1 },        { 0x10, DATA_RW, 3, 0, true, true, -1 },
        { 0x13, CODE_CONF, 0, 3, true, true, -1 },      { 0x13, CODE_XR, 0, 3, true, true, X86_GP },
        { 0x10, DATA_RW, 0, 0, true, false, X86_NP },   { 0x13, DATA_RW, 0, 3, true, false, X86_GP },
        { 0x10, X86_T_LDT, 0, 0, false, true, X86_GP },
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct x86_fault f = { .vector = 0xff };
        bool ok = x86_check_data(cases[i].sel, desc(cases[i].type, cases[i].dpl, cases[i].s, cases[i].present),
                                 cases[i].cpl, &f);

        assert_int_equal(ok, cases[i].vector < 0);
        if (!ok) {
            assert_int_equal(f.vector, cases[i].vector);
            assert_int_equal(f.error, cases[i].sel & X86_SEL_INDEX);
        }
    }
}

static void stack_loads(void **state)
{
    struct x86_fault f;

    (void)state;
    assert_true(x86_check_stack(0x10, desc(DATA_RW, 0, true, true), 0, X86_GP, &f));
    assert_true(x86_check_stack(0x13, desc(DATA_DOWN, 3, true, true), 3, X86_GP, &f));
    assert_false(x86_check_stack(0x13, desc(DATA_RW, 0, true, true), 0, X86_GP, &f)); /* RPL */
    assert_int_equal(f.vector, X86_GP);
    assert_false(x86_check_stack(0x10, desc(DATA_RW, 3, true, true), 0, X86_TS, &f)); /* DPL */
    assert_int_equal(f.vector, X86_TS);
    assert_false(x86_check_stack(0x10, desc(DATA_RO, 0, true, true), 0, X86_GP, &f));
    assert_false(x86_check_stack(0x10, desc(CODE_XR, 0, true, true), 0, X86_GP, &f));
    assert_false(x86_check_stack(0x10, desc(DATA_RW, 0, true, false), 0, X86_GP, &f));
    assert_int_equal(f.vector, X86_SS);
    assert_int_equal(f.error, 0x10);
}

static void code_targets(void **state)
{
    const uint64_t l_and_d = desc(CODE_XR, 0, true, true) | 1UL << 53;
    const uint64_t code64 = (desc(CODE_XR, 0, true, true) | 1UL << 53) & ~(1UL << 54);
    struct x86_fault f;

    (void)state;
    /* JMP, CALL */
    assert_true(x86_check_code_jump(8, desc(CODE_X, 0, true, true), 0, false, &f));
    assert_false(x86_check_code_jump(8, desc(DATA_RW, 0, true, true), 0, false, &f));
    assert_false(x86_check_code_jump(8, desc(CODE_X, 3, true, true), 0, false, &f));
    assert_false(x86_check_code_jump(11, desc(CODE_X, 0, true, true), 0, false, &f)); /* RPL > CPL */
    assert_true(x86_check_code_jump(11, desc(CODE_CONF, 0, true, true), 3, false, &f));
    assert_false(x86_check_code_jump(8, desc(CODE_CONF, 3, true, true), 0, false, &f));
    assert_false(x86_check_code_jump(8, desc(CODE_X, 0, true, false), 0, false, &f));
    assert_int_equal(f.vector, X86_NP);
    assert_true(x86_check_code_jump(8, l_and_d, 0, false, &f)); /* L is not looked at outside IA-32e mode */
    assert_false(x86_check_code_jump(8, l_and_d, 0, true, &f));
    assert_int_equal(f.vector, X86_GP);
    /* RET, IRET */
    assert_true(x86_check_code_return(0x1b, desc(CODE_X, 3, true, true), 0, false, &f));
    assert_false(x86_check_code_return(0x18, desc(CODE_X, 0, true, true), 3, false, &f)); /* inwards */
    assert_false(x86_check_code_return(0x1b, desc(CODE_X, 0, true, true), 0, false, &f));
    assert_true(x86_check_code_return(0x1b, desc(CODE_CONF, 0, true, true), 0, false, &f));
    assert_false(x86_check_code_return(0x18, desc(CODE_CONF, 3, true, true), 0, false, &f));
    /* gates */
    assert_true(x86_check_code_gate(8, desc(CODE_X, 0, true, true), 3, false, &f));
    assert_false(x86_check_code_gate(8, desc(CODE_X, 3, true, true), 0, false, &f)); /* never outwards */
    assert_false(x86_check_code_gate(8, desc(CODE_X, 0, true, true), 3, true, &f));
    assert_true(x86_check_code_gate(8, code64, 3, true, &f));
    assert_false(x86_check_code_gate(8, l_and_d, 3, true, &f));
}

static void dropped_on_return(void **state)
{
    const struct x86_seg kernel = x86_seg_parse(0x10, desc(DATA_RW, 0, true, true), 0);
    const struct x86_seg user = x86_seg_parse(0x23, desc(DATA_RW, 3, true, true), 0);
    const struct x86_seg conforming = x86_seg_parse(0x60, desc(CODE_CONF, 0, true, true), 0);

    (void)state;
    assert_true(x86_seg_drop_on_return(&kernel, 3));
    assert_false(x86_seg_drop_on_return(&kernel, 0));
    assert_false(x86_seg_drop_on_return(&user, 3));
    assert_false(x86_seg_drop_on_return(&conforming, 3));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parsing),           cmocka_unit_test(limits),      cmocka_unit_test(locating),
        cmocka_unit_test(data_loads),        cmocka_unit_test(stack_loads), cmocka_unit_test(code_targets),
        cmocka_unit_test(dropped_on_return),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
