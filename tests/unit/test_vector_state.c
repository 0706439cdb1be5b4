/* SPDX-License-Identifier: MIT */
/*
 * Vector state instructions: FXSAVE and the XSAVE family against the host's own on the same contents, what is refused,
 * the x87 environment in its layouts, MXCSR; and vector instructions in 32-bit and 16-bit code.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>

#include "engine_tests.h"
#include "vector_machine.h"

#define IMG (IM_DATA + 0x2000) /* 64-byte aligned */
#define IMG2 (IM_DATA + 0x3000)

static int set_up(void **state)
{
    *state = vm_new(*state);
    im_edit(*state)->gpr[X86_RBX] = IMG;
    im_done(*state);
    return 0;
}
static int tear_down(void **state)
{
    im_free(*state);
    return 0;
}

static void fill_all(struct im *t)
{
    im_edit(t);
    for (unsigned k = 0; k < 16; k++)
        vm_fill(t, k, (uint8_t)(16 * k + 3));
    t->c->fpu.mxcsr = 0x3fa1;
    im_done(t);
    /* fninit; fldpi; fld1; fldz; fsqrt */
    VM_OK(t, "\xdb\xe3\xd9\xeb\xd9\xe8\xd9\xee\xd9\xfa");
}

static void set_mask(struct im *t, uint32_t eax)
{
    im_edit(t)->gpr[X86_RAX] = eax;
    t->c->gpr[X86_RDX] = 0;
    t->c->gpr[X86_RBX] = IMG;
    t->c->gpr[X86_RSP] = IM_STACK;
    im_done(t);
}

/* ---- against the host ---- */

#define CLEAN()                                                                                                        \
    do {                                                                                                               \
        __asm__ volatile("fninit\n\tldmxcsr %0" ::"m"(default_csr));                                                   \
        if (__builtin_cpu_supports("avx"))                                                                             \
            __asm__ volatile("vzeroall" ::                                                                             \
                                 : "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9",     \
                                   "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                              \
    } while (0)
static const uint32_t default_csr = 0x1f80;

/* The host loads the guest's image and saves it in the same way: both must be the same, byte for byte. */
static void host_fx(const uint8_t *in, uint8_t *out)
{
    __asm__ volatile("fxrstor64 %1\n\tfxsave64 %0" : "+m"(*(uint8_t(*)[512])out) : "m"(*(const uint8_t(*)[512])in));
    CLEAN();
}
enum how { HOW_XSAVE, HOW_XSAVEC, HOW_XSAVEOPT };
static void host_x(const uint8_t *in, uint8_t *out, enum how how, uint32_t mask)
{
    typedef uint8_t image[4096];

    if (how == HOW_XSAVE)
        __asm__ volatile("xrstor64 %1\n\txsave64 %0"
                         : "+m"(*(image *)out)
                         : "m"(*(const image *)in), "a"(mask), "d"(0));
    else if (how == HOW_XSAVEC)
        __asm__ volatile("xrstor64 %1\n\txsavec64 %0"
                         : "+m"(*(image *)out)
                         : "m"(*(const image *)in), "a"(mask), "d"(0));
    else
        __asm__ volatile("xrstor64 %1\n\txsaveopt64 %0"
                         : "+m"(*(image *)out)
                         : "m"(*(const image *)in), "a"(mask), "d"(0));
    CLEAN();
}

static void test_fxsave_as_host(void **state)
{
    static uint8_t guest[512] __attribute__((aligned(64))), host[512] __attribute__((aligned(64)));
    struct im *t = *state;

    fill_all(t);
    memset(guest, 0xcc, sizeof(guest));
    memset(host, 0xcc, sizeof(host));
    mem_write(t->v.mem, IMG, guest, 512);
    set_mask(t, 0);
    VM_OK(t, "\x48\x0f\xae\x03"); /* fxsave64 [rbx] */
    mem_read(t->v.mem, IMG, guest, 512);
    host_fx(guest, host);
    assert_memory_equal(guest, host, 512);
    assert_int_equal(guest[415], t->c->fpu.vec[15][15]);
}

static void test_fxsave_round_trip(void **state)
{
    struct im *t = *state;
    static struct x86_fpu saved;

    fill_all(t);
    saved = t->c->fpu;
    VM_OK(t, "\x0f\xae\x03"); /* fxsave [rbx] */
    im_edit(t);
    memset(t->c->fpu.vec, 0x77, 16 * 64);
    im_done(t);
    VM_OK(t, "\xdb\xe3\xd9\xe8\x0f\xae\x0b"); /* fninit; fld1; fxrstor [rbx] */
    assert_int_equal(t->c->fpu.fsw, saved.fsw);
    assert_int_equal(t->c->fpu.ftw, saved.ftw);
    assert_int_equal(t->c->fpu.mxcsr, saved.mxcsr);
    for (unsigned k = 0; k < 8; k++)
        assert_memory_equal(t->c->fpu.st[k], saved.st[k], 10);
    for (unsigned k = 0; k < 16; k++) {
        assert_memory_equal(t->c->fpu.vec[k], saved.vec[k], 16);
        assert_int_equal(t->c->fpu.vec[k][16], 0x77); /* FXRSTOR knows nothing of the upper half */
    }
    im_edit(t)->gpr[X86_RBX] = IMG + 8;
    im_done(t);
    VM_FAULT(t, X86_GP, 1, 0, "\x0f\xae\x03");
    im_edit(t)->gpr[X86_RBX] = IMG;
    im_put64(t, IMG + 24, 0x1f80 | 1U << 30); /* a reserved bit of MXCSR */
    im_done(t);
    VM_FAULT(t, X86_GP, 1, 0, "\x0f\xae\x0b");
    assert_int_equal(t->c->fpu.mxcsr, saved.mxcsr);
}

static void compare_xsave(struct im *t, enum how how, uint32_t mask)
{
    static uint8_t guest[4096] __attribute__((aligned(64))), again[4096] __attribute__((aligned(64)));
    static uint8_t host[4096] __attribute__((aligned(64)));

    set_mask(t, mask);
    memset(guest, 0xcc, sizeof(guest));
    memset(guest + 512, 0, 64);
    memcpy(host, guest, sizeof(host));
    mem_write(t->v.mem, IMG, guest, sizeof(guest));
    mem_write(t->v.mem, IMG2, guest, sizeof(guest));
    if (how == HOW_XSAVE)
        VM_OK(t, "\x48\x0f\xae\x23"); /* xsave64 [rbx] */
    else if (how == HOW_XSAVEC)
        VM_OK(t, "\x48\x0f\xc7\x23"); /* xsavec64 [rbx] */
    else
        VM_OK(t, "\x48\x0f\xae\x33"); /* xsaveopt64 [rbx] */
    mem_read(t->v.mem, IMG, guest, sizeof(guest));
    host_x(guest, host, how, mask);
    assert_memory_equal(guest, host, sizeof(guest));
    /* and the guest's XRSTOR takes it back: saved once more it is the same */
    VM_OK(t, "\x48\x0f\xae\x2b"); /* xrstor64 [rbx] */
    im_edit(t)->gpr[X86_RBX] = IMG2;
    im_done(t);
    if (how == HOW_XSAVE)
        VM_OK(t, "\x48\x0f\xae\x23");
    else if (how == HOW_XSAVEC)
        VM_OK(t, "\x48\x0f\xc7\x23");
    else
        VM_OK(t, "\x48\x0f\xae\x33");
    mem_read(t->v.mem, IMG2, again, sizeof(again));
    assert_memory_equal(guest, again, sizeof(guest));
}

static void test_xsave_as_host(void **state)
{
    struct im *t = *state;

    if (!vm_has_avx2(t))
        skip();
    fill_all(t);
    for (uint32_t mask = 1; mask < 8; mask++)
        compare_xsave(t, HOW_XSAVE, mask);
    if (t->model.feat_d1_eax & 1)
        compare_xsave(t, HOW_XSAVEOPT, 7);
    if (t->model.feat_d1_eax & 2)
        for (uint32_t mask = 1; mask < 8; mask++)
            compare_xsave(t, HOW_XSAVEC, mask);
    /* with the upper halves in their initial state */
    VM_OK(t, "\xc5\xf8\x77");
    compare_xsave(t, HOW_XSAVE, 6);
    if (t->model.feat_d1_eax & 2)
        compare_xsave(t, HOW_XSAVEC, 6);
}

static void test_xrstor_init(void **state)
{
    static uint8_t img[832];
    struct im *t = *state;

    if (!vm_has_avx2(t))
        skip();
    fill_all(t);
    img[24] = 0x80;
    img[25] = 0x1f;
    mem_write(t->v.mem, IMG, img, sizeof(img)); /* XSTATE_BV = 0: everything to its initial state */
    set_mask(t, 7);
    VM_OK(t, "\x0f\xae\x2b");
    assert_int_equal(t->c->fpu.fcw, 0x37f);
    assert_int_equal(t->c->fpu.ftw, 0);
    assert_int_equal(t->c->fpu.fsw, 0);
    for (unsigned k = 0; k < 16 * 64; k++)
        assert_int_equal(t->c->fpu.vec[k / 64][k % 64], 0);
    assert_int_equal(t->c->fpu.mxcsr, 0x1f80);
    /* a mask without SSE leaves XMM alone */
    fill_all(t);
    set_mask(t, 1);
    VM_OK(t, "\x0f\xae\x2b");
    assert_int_equal(t->c->fpu.vec[3][1], 16 * 3 + 4);
}

static void xrstor_gp(struct im *t, unsigned at, uint8_t v)
{
    static const uint8_t zero[832];

    mem_write(t->v.mem, IMG, zero, sizeof(zero));
    mem_write(t->v.mem, IMG + at, &v, 1);
    set_mask(t, 7);
    VM_FAULT(t, X86_GP, 1, 0, "\x0f\xae\x2b");
    assert_int_equal(t->c->fpu.vec[3][1], 16 * 3 + 4);
}

static void test_xsave_refused(void **state)
{
    struct im *t = *state;

    if (!vm_has_avx2(t))
        skip();
    fill_all(t);
    xrstor_gp(t, 512, 0x08); /* XSTATE_BV: not in XCR0 */
    xrstor_gp(t, 520, 0x01); /* XCOMP_BV not zero in a standard image */
    xrstor_gp(t, 535, 0x01); /* reserved byte of the header */
    xrstor_gp(t, 27, 0x80);  /* MXCSR */
    if (t->model.feat_d1_eax & 2) {
        static const uint8_t zero[832];
        mem_write(t->v.mem, IMG, zero, sizeof(zero));
        im_put64(t, IMG + 512, 4);
        im_put64(t, IMG + 520, 1UL << 63 | 3); /* compacted, XSTATE_BV beyond XCOMP_BV */
        set_mask(t, 7);
        VM_FAULT(t, X86_GP, 1, 0, "\x0f\xae\x2b");
    }
    set_mask(t, 7);
    im_edit(t)->gpr[X86_RBX] = IMG + 16;
    im_done(t);
    VM_FAULT(t, X86_GP, 1, 0, "\x0f\xae\x23"); /* 64-byte alignment */
    VM_FAULT(t, X86_GP, 1, 0, "\x0f\xae\x2b");
    im_edit(t)->cr4 &= ~X86_CR4_OSXSAVE;
    im_done(t);
    VM_FAULT(t, X86_UD, 0, 0, "\x0f\xae\x23");
    im_edit(t)->cr4 |= X86_CR4_OSXSAVE;
    t->c->cr0 |= X86_CR0_TS;
    im_done(t);
    VM_FAULT(t, X86_NM, 0, 0, "\x0f\xae\x23");
}

static void test_xgetbv(void **state)
{
    struct im *t = *state;
    struct cpu_state *c = im_edit(t);

    c->gpr[X86_RAX] = c->gpr[X86_RDX] = ~0UL;
    c->gpr[X86_RCX] = 0;
    im_done(t);
    VM_OK(t, "\x0f\x01\xd0");
    assert_int_equal(t->c->gpr[X86_RAX], t->c->xcr0);
    assert_int_equal(t->c->gpr[X86_RDX], 0);
    im_edit(t)->gpr[X86_RCX] = 2; /* there is 1 on some */
    im_done(t);
    VM_FAULT(t, X86_GP, 1, 0, "\x0f\x01\xd0");
    im_edit(t)->cr4 &= ~X86_CR4_OSXSAVE;
    im_done(t);
    VM_FAULT(t, X86_UD, 0, 0, "\x0f\x01\xd0");
}

/* A save whose second page is missing writes nothing. */
static void test_xsave_page(void **state)
{
    struct im *t = *state;
    uint8_t got = 0;

    fill_all(t);
    vm_edge_present(t, false);
    set_mask(t, 3);
    im_edit(t)->gpr[X86_RBX] = VM_EDGE - 512;
    im_done(t);
    mem_write(t->v.mem, VM_EDGE - 512, &got, 1);
    VM_FAULT(t, X86_PF, 1, 0, "\x0f\xae\x23");
    assert_int_equal(t->c->cr2, VM_EDGE);
    mem_read(t->v.mem, VM_EDGE - 512, &got, 1);
    assert_int_equal(got, 0);
}

static void test_mxcsr(void **state)
{
    struct im *t = *state;

    im_put64(t, IMG, 0x7f81);
    VM_OK(t, "\x0f\xae\x13\x0f\xae\x5b\x08"); /* ldmxcsr [rbx]; stmxcsr [rbx + 8] */
    assert_int_equal(t->c->fpu.mxcsr, 0x7f81);
    assert_int_equal(im_get64(t, IMG + 8) & 0xffffffff, 0x7f81);
    im_put64(t, IMG, 1U << 31);
    VM_FAULT(t, X86_GP, 1, 0, "\x0f\xae\x13");
    assert_int_equal(t->c->fpu.mxcsr, 0x7f81);
    /* the rounding mode is the guest's: 1/3 towards zero */
    im_edit(t);
    *(float *)t->c->fpu.vec[0] = 1;
    *(float *)t->c->fpu.vec[1] = 3;
    im_done(t);
    VM_OK(t, "\xf3\x0f\x5e\xc1");
    assert_int_equal(*(uint32_t *)t->c->fpu.vec[0], 0x3eaaaaaa);
    assert_true(t->c->fpu.mxcsr & 0x20); /* inexact */
}

/* ---- the x87 environment ---- */

static void test_environment(void **state)
{
    struct im *t = *state;
    uint8_t e[28];

    /* fninit; fld1; fld dword [rbx + 64]; fnstenv [rbx] */
    VM_OK(t, "\xdb\xe3\xd9\xe8\xd9\x43\x40\xd9\x33");
    mem_read(t->v.mem, IMG, e, sizeof(e));
    assert_memory_equal(e, "\x7f\x03\xff\xff\x00\x30\xff\xff", 8);
    assert_int_equal(e[8] | e[9] << 8, 0x1fff); /* 7: valid, 6: zero */
    assert_int_equal(*(uint32_t *)(e + 12), IM_CODE + 4);
    assert_int_equal(*(uint16_t *)(e + 18), 0x143);
    assert_int_equal(*(uint32_t *)(e + 20), IMG + 64);
    /* FNSTENV masks all exceptions; FLDENV takes the old ones back */
    mem_write(t->v.mem, IMG, "\x40\x03", 2);
    VM_OK(t, "\xdb\xe3\xd9\x23\xd9\x7b\x40"); /* fninit; fldenv [rbx]; fnstcw [rbx + 64] */
    assert_int_equal(im_get64(t, IMG + 64) & 0xffff, 0x340);
    assert_int_equal(t->c->fpu.fsw, 0x3000);
    assert_int_equal(t->c->fpu.ftw, 0xc0);
    assert_int_equal(t->c->fpu.fop, 0x143);
    VM_OK(t, "\x66\xd9\x33"); /* fnstenv, 14 bytes */
    mem_read(t->v.mem, IMG, e, 14);
    assert_memory_equal(e, "\x40\x03\x00\x30\xff\x1f", 6);
    assert_int_equal(*(uint16_t *)(e + 6), (IM_CODE + 4) & 0xffff);
}

static void test_fnsave(void **state)
{
    struct im *t = *state;
    static struct x86_fpu saved;

    fill_all(t);
    saved = t->c->fpu;
    VM_OK(t, "\xdd\x33"); /* fnsave [rbx] */
    assert_int_equal(t->c->fpu.ftw, 0);
    assert_int_equal(t->c->fpu.fcw, 0x37f);
    VM_OK(t, "\xdd\x23"); /* frstor [rbx] */
    assert_int_equal(t->c->fpu.ftw, saved.ftw);
    assert_int_equal(t->c->fpu.fsw, saved.fsw);
    for (unsigned k = 0; k < 3; k++)
        assert_memory_equal(t->c->fpu.st[k], saved.st[k], 10);
    assert_int_equal(t->c->fpu.fip, saved.fip);
}

static void test_mmx_aliases(void **state)
{
    struct im *t = *state;

    im_edit(t)->gpr[X86_RAX] = 0x1122334455667788;
    im_done(t);
    VM_OK(t, "\xdb\xe3\xd9\xe8\x48\x0f\x6e\xd8\x48\x0f\x7e\xd9"); /* fninit; fld1; movq mm3, rax; movq rcx, mm3 */
    assert_int_equal(t->c->gpr[X86_RCX], 0x1122334455667788);
    assert_int_equal(t->c->fpu.fsw & 0x3800, 0); /* TOP */
    assert_int_equal(t->c->fpu.ftw, 0xff);
    assert_int_equal(*(uint64_t *)t->c->fpu.st[3], 0x1122334455667788);
    assert_int_equal(*(uint16_t *)(t->c->fpu.st[3] + 8), 0xffff);
    VM_OK(t, "\x0f\x77"); /* emms */
    assert_int_equal(t->c->fpu.ftw, 0);
}

/* ---- 32-bit and 16-bit code ---- */

static void code_segment(struct im *t, uint16_t sel, uint32_t attr, uint32_t limit)
{
    im_edit(t)->seg[X86_CS] =
        (struct x86_seg){ .limit = limit, .sel = sel, .attr = 0xb | X86_SEG_S | X86_SEG_P | attr };
    im_done(t);
}

static void test_32bit(void **state)
{
    struct im *t = *state;

    code_segment(t, 24, X86_SEG_DB | X86_SEG_G, ~0U);
    im_put64(t, IMG + 0x18, 0x4000000040000000); /* 2.0f twice */
    im_edit(t)->gpr[X86_RAX] = 8;
    *(float *)t->c->fpu.vec[0] = 1;
    *(float *)t->c->fpu.vec[7] = 40;
    im_done(t);
    /* addss xmm0, [ebx + eax * 2 + 8]; cvttss2si ecx, xmm0; inc ecx (0x41: no REX here); movd esi, xmm7 */
    VM_OK(t, "\xf3\x0f\x58\x44\x43\x08\xf3\x0f\x2c\xc8\x41\x66\x0f\x7e\xfe");
    assert_int_equal(t->c->gpr[X86_RCX], 4);
    assert_int_equal(t->c->gpr[X86_RSI], 0x42200000);
    VM_OK(t, "\xdd\x43\x18\xdd\x5b\x28"); /* fld qword [ebx + 0x18]; fstp qword [ebx + 0x28] */
    assert_int_equal(im_get64(t, IMG + 0x28), 0x4000000040000000);
    if (vm_has_avx2(t)) {
        /* vaddss xmm1, xmm0, [ebx + 0x18]; vextractf128 xmm2, ymm1, 1; vpextrd edx, xmm1, 0; vblendvps with is4 */
        VM_OK(t, "\xc5\xfa\x58\x4b\x18\xc4\xe3\x7d\x19\xca\x01\xc4\xe3\x79\x16\xca\x00\xc4\xe3\x79\x4a\xdf\x00");
        assert_int_equal(t->c->gpr[X86_RDX], 0x40a00000);
        assert_int_equal(*(uint32_t *)t->c->fpu.vec[2], 0);
        assert_int_equal(*(uint32_t *)t->c->fpu.vec[3], 0x40400000);
    }
    /* a segment's limit holds for vector operands too */
    im_edit(t)->seg[X86_DS].limit = IMG + 7;
    im_done(t);
    VM_OK(t, "\x0f\x12\x03");                                   /* movlps xmm0, [ebx] */
    assert_int_equal(IM_EXEC(t, "\x0f\x10\x03\xf4"), EXIT_HLT); /* movups: 16 bytes */
    assert_int_equal(im_vector(t), X86_GP);
}

static void test_16bit(void **state)
{
    struct im *t = *state;

    code_segment(t, 32, X86_SEG_G, 0xfffff);
    im_put64(t, 0x7010, 0x3ff0000000000000); /* 1.0, within 64 KiB */
    im_edit(t)->gpr[X86_RBX] = 0xdead7000;
    t->c->gpr[X86_RSI] = 0xbeef0008;
    t->c->gpr[X86_RCX] = 0;
    t->c->rip = 0;
    t->c->seg[X86_CS].base = IM_CODE;
    im_done(t);
    /* movsd xmm2, [bx + si + 8]; addsd xmm2, xmm2; cvtsd2si ecx, xmm2; fld qword [bx + si + 8]; hlt */
    im_load(t, IM_CODE, "\xf2\x0f\x10\x50\x08\xf2\x0f\x58\xd2\xf2\x0f\x2d\xca\xdd\x40\x08\xf4", 17);
    assert_int_equal(im_run(t), EXIT_HLT);
    assert_int_equal(im_vector(t), -1);
    assert_int_equal(t->c->gpr[X86_RCX], 2);
    assert_int_equal(t->c->fpu.ftw, 0x80);
    assert_int_equal(t->c->fpu.fdp & 0xffff, 0x7010);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_fxsave_as_host), TEST(test_fxsave_round_trip),
        TEST(test_xsave_as_host),  TEST(test_xrstor_init),
        TEST(test_xsave_refused),  TEST(test_xgetbv),
        TEST(test_xsave_page),     TEST(test_mxcsr),
        TEST(test_environment),    TEST(test_fnsave),
        TEST(test_mmx_aliases),    TEST(test_32bit),
        TEST(test_16bit),
    };

    return ENGINE_TESTS_RUN("vector_state", tests);
}
