/* SPDX-License-Identifier: MIT */
/* Page-table walks against a table of expected results: every paging mode, rights, reserved bits, A and D bits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "x86/paging.h"

/* Physical memory of 64 KiB: tables at 0x1000 (top), 0x2000, 0x3000, 0x4000 (last level). */
enum { MEM = 0x10000, L4 = 0x1000, L3 = 0x2000, L2 = 0x3000, L1 = 0x4000, PHYS_BITS = 40 };
enum { P = 1, W = 2, U = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define XD (1UL << 63)

struct world {
    struct cpu_state c;
    struct x86_phys p;
    uint8_t ram[MEM];
    unsigned changes; /* this many set_bits find the entry changed */
    bool clear_on_change;
};

static bool phys_read(void *arg, gpa_t gpa, void *buf, unsigned len)
{
    struct world *w = arg;

    if (gpa >= MEM)
        return false;
    memcpy(buf, w->ram + gpa, len);
    return true;
}

static bool phys_set_bits(void *arg, gpa_t gpa, unsigned len, uint64_t old, uint64_t bits)
{
    struct world *w = arg;
    uint64_t val = 0;

    memcpy(&val, w->ram + gpa, len);
    assert_int_equal(val, old);
    if (w->changes) {
        w->changes--;
        if (w->clear_on_change)
            memset(w->ram + gpa, 0, len);
        return false;
    }
    val |= bits;
    memcpy(w->ram + gpa, &val, len);
    return true;
}

static void put(struct world *w, gpa_t gpa, unsigned len, uint64_t val)
{
    memcpy(w->ram + gpa, &val, len);
}

static uint64_t get(const struct world *w, gpa_t gpa, unsigned len)
{
    uint64_t val = 0;

    memcpy(&val, w->ram + gpa, len);
    return val;
}

static struct world *world(void **state)
{
    struct world *w = *state;

    memset(w, 0, sizeof(*w));
    w->p = (struct x86_phys){ .read = phys_read, .set_bits = phys_set_bits, .arg = w, .phys_bits = PHYS_BITS };
    w->c.cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP;
    return w;
}

/* Page at va 0x5123 -> physical 0x123456123, all levels user and writable. */
#define VA 0x5123UL
#define PAGE 0x123456000UL

static void four_level(struct world *w)
{
    w->c.cr4 = X86_CR4_PAE;
    w->c.msr.efer = X86_EFER_LME | X86_EFER_LMA | X86_EFER_NXE;
    w->c.cr3 = L4;
    put(w, L4, 8, L3 | P | W | U);
    put(w, L3, 8, L2 | P | W | U);
    put(w, L2, 8, L1 | P | W | U);
    put(w, L1 + 5 * 8, 8, PAGE | P | W | U);
}

static void pae(struct world *w)
{
    w->c.cr4 = X86_CR4_PAE;
    w->c.msr.efer = X86_EFER_NXE;
    w->c.pdpte[0] = L2 | P;
    put(w, L2, 8, L1 | P | W | U);
    put(w, L1 + 5 * 8, 8, PAGE | P | W | U);
}

static void two_level(struct world *w)
{
    w->c.cr3 = L2;
    put(w, L2, 4, L1 | P | W | U);
    put(w, L1 + 5 * 4, 4, 0x3456000 | P | W | U);
}

static bool walk(struct world *w, unsigned access, struct x86_xlate *x, struct x86_fault *f)
{
    memset(x, 0xee, sizeof(*x));
    memset(f, 0xee, sizeof(*f));
    return x86_walk(&w->c, &w->p, VA, access, x, f);
}

static void expect_ok(struct world *w, unsigned access)
{
    struct x86_xlate x;
    struct x86_fault f;

    assert_true(walk(w, access, &x, &f));
}

static void expect_fault(struct world *w, unsigned access, uint32_t error)
{
    struct x86_xlate x;
    struct x86_fault f;

    assert_false(walk(w, access, &x, &f));
    assert_int_equal(f.vector, X86_PF);
    assert_true(f.has_error);
    assert_int_equal(f.error, error);
    assert_int_equal(f.addr, VA);
}

static void paging_off(void **state)
{
    struct world *w = world(state);
    struct x86_xlate x;
    struct x86_fault f;

    w->c.cr0 = 0;
    assert_true(walk(w, X86_ACC_WRITE, &x, &f));
    assert_int_equal(x.gpa, VA);
    assert_true(x.writable && x.executable && x.dirty);
}

static void translations(void **state)
{
    struct world *w = world(state);
    struct x86_xlate x;
    struct x86_fault f;

    four_level(w);
    assert_true(walk(w, X86_ACC_READ, &x, &f));
    assert_int_equal(x.gpa, PAGE + 0x123);
    assert_int_equal(x.page_shift, 12);
    assert_true(x.user && x.writable && x.executable && !x.global && !x.dirty);

    put(w, L2, 8, 0x8000600000UL | P | W | U | PS | G);
    assert_true(walk(w, X86_ACC_READ, &x, &f));
    assert_int_equal(x.gpa, 0x8000600000UL + VA);
    assert_int_equal(x.page_shift, 21);
    assert_false(x.global); /* CR4.PGE is off */
    w->c.cr4 |= X86_CR4_PGE;
    assert_true(walk(w, X86_ACC_READ, &x, &f));
    assert_true(x.global);

    put(w, L3, 8, 0xc0000000UL | P | W | U | PS);
    assert_true(walk(w, X86_ACC_READ, &x, &f));
    assert_int_equal(x.gpa, 0xc0000000UL + VA);
    assert_int_equal(x.page_shift, 30);

    w = world(state);
    pae(w);
    assert_true(walk(w, X86_ACC_WRITE, &x, &f));
    assert_int_equal(x.gpa, PAGE + 0x123);

    w = world(state);
    two_level(w);
    assert_true(walk(w, X86_ACC_WRITE, &x, &f));
    assert_int_equal(x.gpa, 0x3456123);
    /* PSE-36: bits 20:13 are address bits 39:32 */
    put(w, L2, 4, 0xc00000 | 0xabU << 13 | P | W | U | PS);
    w->c.cr4 = X86_CR4_PSE;
    assert_true(walk(w, X86_ACC_READ, &x, &f));
    assert_int_equal(x.gpa, 0xab00c00000UL + VA);
    assert_int_equal(x.page_shift, 22);
}

static void not_present(void **state)
{
    static const unsigned tables[] = { L4, L3, L2, L1 + 5 * 8 };
    struct world *w;

    for (unsigned i = 0; i < ARRAY_LEN(tables); i++) {
        w = world(state);
        four_level(w);
        put(w, tables[i], 8, get(w, tables[i], 8) & ~(uint64_t)P);
        expect_fault(w, X86_ACC_READ, 0);
        expect_fault(w, X86_ACC_WRITE, X86_PF_W);
        expect_fault(w, X86_ACC_WRITE | X86_ACC_USER, X86_PF_W | X86_PF_U);
        expect_fault(w, X86_ACC_EXEC, X86_PF_I);
        /* nothing above it was marked accessed for a fault */
        for (unsigned k = 0; k < i; k++)
            assert_int_equal(get(w, tables[k], 8) & (A | D), 0);
        /* a not-present entry hides what is wrong below and beside it */
        put(w, tables[i], 8, ~(uint64_t)P);
        expect_fault(w, X86_ACC_READ, 0);
    }
    w = world(state);
    pae(w);
    w->c.pdpte[0] = 0;
    expect_fault(w, X86_ACC_READ, 0);
}

static void reserved_bits(void **state)
{
    static const struct {
        unsigned table;
        uint64_t bit;
        bool bad;
    } cases[] = {
        { L4, PS, true },
        { L4, 1UL << 40, true },
        { L4, 1UL << 51, true },
        { L4, 1UL << 52, false },
        { L4, 1UL << 62, false },
        { L3, 1UL << 45, true },
        { L3, PS | 1UL << 13, true },
        { L3, PS | 1UL << 29, true },
        { L3, PS | 1UL << 12, false }, /* PAT */
        { L2, PS | 1UL << 13, true },
        { L2, PS | 1UL << 20, true },
        { L2, PS | 1UL << 12, false },
        { L1 + 5 * 8, PS, false }, /* PAT */
        { L1 + 5 * 8, 1UL << 40, true },
    };
    struct world *w;

    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        w = world(state);
        four_level(w);
        /* a leaf higher up must not bring the address of the next table along */
        put(w, cases[i].table, 8,
            (cases[i].table == L1 + 5 * 8 ? PAGE
             : cases[i].bit & PS          ? 0
                                          : get(w, cases[i].table, 8)) |
                P | W | U | cases[i].bit);
        if (cases[i].bad)
            expect_fault(w, X86_ACC_READ, X86_PF_P | X86_PF_RSVD);
        else
            expect_ok(w, X86_ACC_READ);
    }
    /* bit 63 is NX or reserved */
    w = world(state);
    four_level(w);
    put(w, L2, 8, L1 | P | W | U | XD);
    expect_ok(w, X86_ACC_READ);
    expect_fault(w, X86_ACC_EXEC | X86_ACC_USER, X86_PF_P | X86_PF_U | X86_PF_I);
    w->c.msr.efer &= ~X86_EFER_NXE;
    expect_fault(w, X86_ACC_EXEC, X86_PF_P | X86_PF_RSVD);
    w = world(state);
    pae(w);
    put(w, L1 + 5 * 8, 8, PAGE | P | 1UL << 62);
    expect_fault(w, X86_ACC_WRITE, X86_PF_P | X86_PF_W | X86_PF_RSVD);
    /* 4 MB pages: bit 21 */
    w = world(state);
    two_level(w);
    w->c.cr4 = X86_CR4_PSE;
    put(w, L2, 4, 0x600000 | P | PS);
    expect_fault(w, X86_ACC_READ, X86_PF_P | X86_PF_RSVD);
    w->p.phys_bits = 36;
    put(w, L2, 4, 0x400000 | 1 << 17 | P | PS); /* address bit 36 */
    expect_fault(w, X86_ACC_READ, X86_PF_P | X86_PF_RSVD);
    put(w, L2, 4, 0x400000 | 1 << 16 | P | PS);
    expect_ok(w, X86_ACC_READ);
}

/* One page; which of its rights hold for which access. */
static void rights(void **state)
{
    enum { WP = 1, SMEP = 2, SMAP = 4, AC = 8, NX = 16 };
    static const struct {
        unsigned flags, env, access;
        bool ok;
    } cases[] = {
        { W | U, WP, X86_ACC_USER | X86_ACC_WRITE, true },
        { U, WP, X86_ACC_USER | X86_ACC_WRITE, false },
        { U, 0, X86_ACC_USER | X86_ACC_WRITE, false }, /* WP is about the supervisor */
        { U, WP, X86_ACC_USER, true },
        { W, WP, X86_ACC_USER, false },
        { W, WP, X86_ACC_USER | X86_ACC_EXEC, false },
        { U, WP, X86_ACC_USER | X86_ACC_EXEC, true },
        { U, WP | NX, X86_ACC_USER | X86_ACC_EXEC, false },
        { 0, WP, X86_ACC_WRITE, false },
        { 0, 0, X86_ACC_WRITE, true },
        { U, WP, X86_ACC_WRITE, false },
        { U, 0, X86_ACC_WRITE, true },
        { W | U, WP, X86_ACC_EXEC, true },
        { W | U, WP | SMEP, X86_ACC_EXEC, false },
        { W, WP | SMEP, X86_ACC_EXEC, true },
        { W, WP | NX, X86_ACC_EXEC, false },
        { W | U, WP | SMEP, X86_ACC_USER | X86_ACC_EXEC, true },
        { W | U, WP | SMAP, X86_ACC_READ, false },
        { W | U, WP | SMAP, X86_ACC_WRITE, false },
        { W | U, WP | SMAP | AC, X86_ACC_READ, true },
        { W | U, WP | SMAP | AC, X86_ACC_WRITE, true },
        { U, WP | SMAP | AC, X86_ACC_WRITE, false },
        { W | U, SMAP, X86_ACC_WRITE, false }, /* WP off does not lift SMAP */
        { W | U, WP | SMAP | AC, X86_ACC_READ | X86_ACC_IMPLICIT, false },
        { W | U, WP | AC, X86_ACC_READ | X86_ACC_IMPLICIT, true },
        { W, WP | SMAP, X86_ACC_WRITE, true },
        { W | U, WP | SMAP, X86_ACC_USER | X86_ACC_WRITE, true },
        { W | U, WP | SMAP, X86_ACC_EXEC, true }, /* SMAP is about data */
    };
    static const unsigned tables[] = { L4, L3, L2, L1 + 5 * 8 };

    for (unsigned i = 0; i < ARRAY_LEN(cases); i++)
        for (unsigned level = 0; level < ARRAY_LEN(tables); level++) { /* any level may forbid */
            struct world *w = world(state);
            unsigned access = cases[i].access, env = cases[i].env;
            uint32_t error = X86_PF_P;

            four_level(w);
            put(w, tables[level], 8,
                (get(w, tables[level], 8) & ~(uint64_t)(W | U)) | cases[i].flags | (env & NX ? XD : 0));
            w->c.cr0 = X86_CR0_PE | X86_CR0_PG | (env & WP ? X86_CR0_WP : 0);
            w->c.cr4 |= (env & SMEP ? X86_CR4_SMEP : 0) | (env & SMAP ? X86_CR4_SMAP : 0);
            w->c.rflags = env & AC ? X86_FL_AC : 0;
            error |= access & X86_ACC_WRITE ? X86_PF_W : 0;
            error |= access & X86_ACC_USER ? X86_PF_U : 0;
            error |= access & X86_ACC_EXEC ? X86_PF_I : 0;
            if (cases[i].ok)
                expect_ok(w, access);
            else
                expect_fault(w, access, error);
        }
}

static void what_may_be_kept(void **state)
{
    struct world *w = world(state);
    struct x86_xlate x;
    struct x86_fault f;

    four_level(w);
    put(w, L1 + 5 * 8, 8, PAGE | P | U | XD);
    assert_true(walk(w, X86_ACC_READ | X86_ACC_USER, &x, &f));
    assert_false(x.writable || x.executable || x.dirty);
    w->c.cr0 &= ~X86_CR0_WP;
    assert_true(walk(w, X86_ACC_READ, &x, &f));
    assert_true(x.writable);
    assert_true(walk(w, X86_ACC_WRITE, &x, &f));
    assert_true(x.dirty);
}

static void accessed_and_dirty(void **state)
{
    static const unsigned tables[] = { L4, L3, L2 };
    struct world *w = world(state);

    four_level(w);
    expect_ok(w, X86_ACC_READ | X86_ACC_PROBE);
    assert_int_equal(get(w, L1 + 5 * 8, 8) & (A | D), 0);
    expect_ok(w, X86_ACC_READ);
    for (unsigned i = 0; i < ARRAY_LEN(tables); i++)
        assert_int_equal(get(w, tables[i], 8) & (A | D), A);
    assert_int_equal(get(w, L1 + 5 * 8, 8) & (A | D), A);
    expect_ok(w, X86_ACC_WRITE);
    for (unsigned i = 0; i < ARRAY_LEN(tables); i++)
        assert_int_equal(get(w, tables[i], 8) & (A | D), A);
    assert_int_equal(get(w, L1 + 5 * 8, 8) & (A | D), A | D);
    /* a refused write leaves the page clean */
    put(w, L1 + 5 * 8, 8, PAGE | P | U);
    expect_fault(w, X86_ACC_WRITE, X86_PF_P | X86_PF_W);
    assert_int_equal(get(w, L1 + 5 * 8, 8) & (A | D), 0);

    w = world(state);
    two_level(w);
    expect_ok(w, X86_ACC_WRITE);
    assert_int_equal(get(w, L2, 4) & (A | D), A);
    assert_int_equal(get(w, L1 + 20, 4) & (A | D), A | D);
    assert_int_equal(get(w, L1 + 24, 4), 0);
}

static void races(void **state)
{
    struct world *w = world(state);

    four_level(w);
    w->changes = 3;
    expect_ok(w, X86_ACC_WRITE);
    assert_int_equal(w->changes, 0);
    assert_int_equal(get(w, L1 + 5 * 8, 8) & (A | D), A | D);
    /* the entry goes away while its bit is set: the new walk faults */
    w = world(state);
    four_level(w);
    w->changes = 1;
    w->clear_on_change = true;
    expect_fault(w, X86_ACC_READ, 0);
    /* somebody who changes it for ever does not hang us */
    w = world(state);
    four_level(w);
    w->changes = UINT32_MAX;
    expect_ok(w, X86_ACC_READ);
}

static void tables_outside_ram(void **state)
{
    struct world *w = world(state);

    four_level(w);
    put(w, L3, 8, 0x80000000UL | P | W | U); /* reads as ones: reserved bits */
    expect_fault(w, X86_ACC_READ, X86_PF_P | X86_PF_RSVD);
}

static void pdptes(void **state)
{
    struct world *w = world(state);
    const uint64_t good = L2 | P;
    static const uint64_t bad[] = { 1 << 1, 1 << 2, 1 << 5, 1 << 8, 1UL << 40, XD };

    w->c.cr4 = X86_CR4_PAE;
    put(w, L4 + 0x20, 8, good);
    put(w, L4 + 0x28, 8, good & ~(uint64_t)P);
    assert_true(x86_load_pdptes(&w->c, &w->p, L4 + 0x20));
    assert_int_equal(w->c.pdpte[0], good);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        put(w, L4 + 0x28, 8, good | bad[i]);
        assert_false(x86_load_pdptes(&w->c, &w->p, L4 + 0x20));
        assert_int_equal(w->c.pdpte[1], good & ~(uint64_t)P); /* unchanged */
    }
    put(w, L4 + 0x28, 8, bad[0]); /* not present: anything goes */
    assert_true(x86_load_pdptes(&w->c, &w->p, L4 + 0x20));
    assert_false(x86_load_pdptes(&w->c, &w->p, MEM));
}

static int setup(void **state)
{
    *state = aligned_alloc(64, sizeof(struct world)); /* as the vector registers want */
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(paging_off),       TEST(translations),       TEST(not_present), TEST(reserved_bits),      TEST(rights),
        TEST(what_may_be_kept), TEST(accessed_and_dirty), TEST(races),       TEST(tables_outside_ram), TEST(pdptes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
