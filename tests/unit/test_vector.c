/* SPDX-License-Identifier: MIT */
/*
 * Vector instructions of an engine: results as the host computes them, faults, page crossings, masked memory,
 * device memory, self-modifying code, code memory that runs full, several threads.
 */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>

#include "engine_tests.h"
#include "vector_machine.h"

static int set_up(void **state)
{
    *state = vm_new(*state);
    return 0;
}
static int tear_down(void **state)
{
    im_free(*state);
    return 0;
}

/* ---- results ---- */

/* The same bytes on the host and in the guest: xmm0 op xmm1, both given. */
#define NATIVE(name, bytes)                                                                                            \
    static void name(uint8_t a[16], const uint8_t b[16])                                                               \
    {                                                                                                                  \
        __asm__ volatile("movups %0, %%xmm0\n\tmovups %1, %%xmm1\n\t.byte " bytes "\n\tmovups %%xmm0, %0"              \
                         : "+m"(*(uint8_t(*)[16])a)                                                                    \
                         : "m"(*(const uint8_t(*)[16])b)                                                               \
                         : "xmm0", "xmm1");                                                                            \
    }
NATIVE(native_addps, "0x0f,0x58,0xc1")
NATIVE(native_mulpd, "0x66,0x0f,0x59,0xc1")
NATIVE(native_sqrtss, "0xf3,0x0f,0x51,0xc1")
NATIVE(native_paddusb, "0x66,0x0f,0xdc,0xc1")
NATIVE(native_pshufd, "0x66,0x0f,0x70,0xc1,0x1b")
NATIVE(native_cvtps2dq, "0x66,0x0f,0x5b,0xc1")
NATIVE(native_pmaddwd, "0x66,0x0f,0xf5,0xc1")
NATIVE(native_unpcklps, "0x0f,0x14,0xc1")

static void test_results(void **state)
{
    static const struct {
        void (*native)(uint8_t *, const uint8_t *);
        const char *code;
        unsigned len;
    } ops[] = {
        { native_addps, "\x0f\x58\xc1\xf4", 4 },          { native_mulpd, "\x66\x0f\x59\xc1\xf4", 5 },
        { native_sqrtss, "\xf3\x0f\x51\xc1\xf4", 5 },     { native_paddusb, "\x66\x0f\xdc\xc1\xf4", 5 },
        { native_pshufd, "\x66\x0f\x70\xc1\x1b\xf4", 6 }, { native_cvtps2dq, "\x66\x0f\x5b\xc1\xf4", 5 },
        { native_pmaddwd, "\x66\x0f\xf5\xc1\xf4", 5 },    { native_unpcklps, "\x0f\x14\xc1\xf4", 4 },
    };
    struct im *t = *state;

    for (unsigned k = 0; k < ARRAY_LEN(ops); k++) {
        for (uint8_t seed = 1; seed < 20; seed++) {
            uint8_t a[16];

            im_edit(t);
            vm_fill(t, 0, (uint8_t)(seed * 7));
            vm_fill(t, 1, (uint8_t)(seed * 31));
            memcpy(a, t->c->fpu.vec[0], 16);
            ops[k].native(a, t->c->fpu.vec[1]);
            im_done(t);
            assert_int_equal(im_exec(t, ops[k].code, ops[k].len), EXIT_HLT);
            assert_int_equal(im_vector(t), -1);
            assert_memory_equal(t->c->fpu.vec[0], a, 16);
            /* a legacy instruction keeps what is above the xmm register */
            assert_int_equal(t->c->fpu.vec[0][16], (uint8_t)(seed * 7 + 16));
        }
    }
}

static void test_general_registers(void **state)
{
    struct im *t = *state;

    im_edit(t);
    vm_fill(t, 3, 0x11);
    t->c->gpr[X86_RSP] = 0x1122334455667788;
    t->c->gpr[X86_RSI] = ~0UL;
    im_done(t);
    /* movq xmm0, rsp; movq rsp, xmm3; movd esi, xmm3; pextrw edi, xmm3, 1; cvtsi2sd xmm4, rsp; hlt */
    VM_OK(t, "\x66\x48\x0f\x6e\xc4\x66\x48\x0f\x7e\xdc\x66\x0f\x7e\xde\x66\x0f\xc5\xfb\x01\xf2\x48\x0f\x2a\xe4");
    assert_int_equal(*(uint64_t *)t->c->fpu.vec[0], 0x1122334455667788);
    assert_int_equal(t->c->gpr[X86_RSP], 0x1817161514131211);
    assert_int_equal(t->c->gpr[X86_RSI], 0x14131211);
    assert_int_equal(t->c->gpr[X86_RDI], 0x1413);
    assert_true(*(double *)t->c->fpu.vec[4] == (double)0x1817161514131211);
}

static void test_flags(void **state)
{
    struct im *t = *state;

    im_edit(t);
    *(double *)t->c->fpu.vec[0] = 1;
    *(double *)t->c->fpu.vec[1] = 2;
    im_done(t);
    /* stc; comisd xmm0, xmm1; setb al; ucomisd xmm0, xmm0; sete ah */
    VM_OK(t, "\xf8\x66\x0f\x2f\xc1\x0f\x92\xc0\x66\x0f\x2e\xc0\x0f\x94\xc4");
    assert_int_equal(t->c->gpr[X86_RAX] & 0xffff, 0x0101);
    /* fld1; fldz; fcomip: ST(0) = 0 < 1: CF */
    VM_OK(t, "\xd9\xe8\xd9\xee\xdf\xf1");
    assert_int_equal(t->c->rflags & X86_FL_ARITH, X86_FL_CF);
}

static void test_implicit_registers(void **state)
{
    struct im *t = *state;

    im_edit(t);
    memcpy(t->c->fpu.vec[0], "needle in a hay", 16);
    mem_write(t->v.mem, IM_DATA + 3, "xxneedle in a xx", 16);
    t->c->gpr[X86_RAX] = 6;
    t->c->gpr[X86_RDX] = 16;
    t->c->gpr[X86_RBX] = IM_DATA + 3;
    im_done(t);
    /* pcmpestri xmm0, [rbx], equal ordered */
    VM_OK(t, "\x66\x0f\x3a\x61\x03\x0c");
    assert_int_equal(t->c->gpr[X86_RCX], 2);
    assert_int_equal(t->c->gpr[X86_RDX], 16);
    assert_true(t->c->rflags & X86_FL_CF);
}

static void test_vex_clears(void **state)
{
    struct im *t = *state;

    if (!vm_has_avx2(t))
        skip();
    im_edit(t);
    vm_fill(t, 0, 1);
    vm_fill(t, 1, 2);
    im_done(t);
    VM_OK(t, "\xc5\xf8\x28\xc1"); /* vmovaps xmm0, xmm1 */
    assert_memory_equal(t->c->fpu.vec[0], t->c->fpu.vec[1], 16);
    for (unsigned k = 16; k < 64; k++)
        assert_int_equal(t->c->fpu.vec[0][k], 0);
    VM_OK(t, "\xc5\xfc\x28\xc1"); /* vmovaps ymm0, ymm1 */
    assert_memory_equal(t->c->fpu.vec[0], t->c->fpu.vec[1], 32);
    VM_OK(t, "\xc5\xf8\x77"); /* vzeroupper */
    assert_int_equal(t->c->fpu.vec[1][15], 2 + 15);
    assert_int_equal(t->c->fpu.vec[1][16], 0);
}

/* ---- faults ---- */

static void test_alignment(void **state)
{
    struct im *t = *state;

    im_edit(t)->gpr[X86_RBX] = IM_DATA + 8;
    im_done(t);
    VM_FAULT(t, X86_GP, 1, 0, "\x0f\x28\x03"); /* movaps xmm0, [rbx] */
    assert_int_equal(im_frame(t, 0), 0);
    VM_FAULT(t, X86_GP, 1, 0, "\x0f\x29\x03");     /* movaps [rbx], xmm0 */
    VM_FAULT(t, X86_GP, 1, 1, "\x90\x0f\x58\x03"); /* addps */
    VM_OK(t, "\x0f\x10\x03\x0f\x11\x03");          /* movups */
    /* over the edge of a page that is not there: alignment comes first, then the page */
    vm_edge_present(t, false);
    im_edit(t)->gpr[X86_RBX] = VM_EDGE - 8;
    im_done(t);
    VM_FAULT(t, X86_GP, 1, 0, "\x0f\x28\x03");
    VM_FAULT(t, X86_PF, 1, 0, "\x0f\x10\x03");
    assert_int_equal(t->c->cr2, VM_EDGE);
    if (vm_has_avx2(t)) {
        im_edit(t)->gpr[X86_RBX] = IM_DATA + 16;
        im_done(t);
        VM_FAULT(t, X86_GP, 1, 0, "\xc5\xfc\x28\x03"); /* vmovaps ymm0, [rbx] */
        VM_OK(t, "\xc5\xfc\x58\x03");                  /* vaddps ymm0, ymm0, [rbx] */
    }
}

static void test_page_crossing(void **state)
{
    struct im *t = *state;
    uint8_t want[16], got[16];

    for (unsigned k = 0; k < 16; k++)
        want[k] = (uint8_t)(0xa0 + k);
    mem_write(t->v.mem, VM_EDGE - 5, want, 16);
    im_edit(t)->gpr[X86_RBX] = VM_EDGE - 5;
    im_done(t);
    VM_OK(t, "\x0f\x10\x03"); /* movups xmm0, [rbx] */
    assert_memory_equal(t->c->fpu.vec[0], want, 16);
    im_edit(t);
    vm_fill(t, 1, 0x40);
    im_done(t);
    VM_OK(t, "\x0f\x11\x0b"); /* movups [rbx], xmm1 */
    mem_read(t->v.mem, VM_EDGE - 5, got, 16);
    assert_memory_equal(got, t->c->fpu.vec[1], 16);
    /* a store whose second page is not there changes nothing on the first */
    vm_edge_present(t, false);
    im_edit(t);
    vm_fill(t, 1, 0x80);
    im_done(t);
    VM_FAULT(t, X86_PF, 1, 0, "\x0f\x11\x0b");
    assert_int_equal(im_frame(t, 0), X86_PF_W);
    assert_int_equal(t->c->cr2, VM_EDGE);
    mem_read(t->v.mem, VM_EDGE - 5, want, 5);
    assert_memory_equal(got, want, 5);
}

static void test_simd_exception(void **state)
{
    struct im *t = *state;

    im_edit(t)->fpu.mxcsr = 0x1f80 & ~(1U << 9); /* divide by zero unmasked */
    vm_fill(t, 0, 0x40);
    memset(t->c->fpu.vec[1], 0, 16);
    im_done(t);
    VM_FAULT(t, X86_XM, 0, 1, "\x90\x0f\x5e\xc1"); /* divps xmm0, xmm1 */
    assert_int_equal(t->c->fpu.mxcsr, (0x1f80 & ~(1U << 9)) | 1 << 2);
    assert_int_equal(t->c->fpu.vec[0][0], 0x40);
    im_edit(t)->cr4 &= ~X86_CR4_OSXMMEXCPT;
    im_done(t);
    VM_FAULT(t, X86_UD, 0, 0, "\x0f\x5e\xc1");
    /* masked: only the flag */
    im_edit(t)->fpu.mxcsr = 0x1f80;
    im_done(t);
    VM_OK(t, "\x0f\x5e\xc1");
    assert_int_equal(t->c->fpu.mxcsr, 0x1f84);
}

static void test_x87_exception(void **state)
{
    struct im *t = *state;

    im_edit(t)->fpu.fcw = 0x37b; /* zero divide unmasked */
    im_done(t);
    /* fld1; fldz; fdivp st(1); nop; fwait: the exception is pending, and comes with the next waiting instruction */
    VM_FAULT(t, X86_MF, 0, 7, "\xd9\xe8\xd9\xee\xde\xf9\x90\x9b");
    assert_int_equal(t->c->fpu.fip, IM_CODE + 4);
    assert_int_equal(t->c->fpu.fop, 0x6f9);
    assert_true(t->c->fpu.fsw & 0x84);
    /* it stays pending over the end of run(), before a fault of the operand; FNINIT takes it away */
    vm_edge_present(t, false);
    im_edit(t)->gpr[X86_RBX] = VM_EDGE;
    im_done(t);
    VM_FAULT(t, X86_MF, 0, 0, "\xd9\x03"); /* fld dword [rbx] */
    VM_FAULT(t, X86_PF, 1, 2, "\xdb\xe3\xd9\x03");
    VM_OK(t, "\xdb\xe3\xd9\xe8\x9b");
}

static void test_x87_without_ne(void **state)
{
    struct im *t = *state;

    im_edit(t)->cr0 &= ~X86_CR0_NE;
    t->c->fpu.fcw = 0x37b;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\xd9\xe8\xd9\xee\xde\xf9\x9b\xf4"), EXIT_FATAL);
    assert_non_null(strstr(t->v.exit.text, "CR0.NE"));
}

static void set_cr(struct im *t, uint64_t cr0_on, uint64_t cr4_off, uint64_t xcr0)
{
    struct cpu_state *c = im_edit(t);

    c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_NE | X86_CR0_ET | X86_CR0_MP | cr0_on;
    c->cr4 = (c->cr4 | X86_CR4_OSFXSR | X86_CR4_OSXSAVE) & ~cr4_off;
    c->xcr0 = xcr0;
    c->gpr[X86_RSP] = IM_STACK;
    im_done(t);
}

#define X87 "\xd9\xe8"         /* fld1 */
#define FWAIT "\x9b"           /* fwait */
#define MMX "\x0f\xfc\xc1"     /* paddb mm0, mm1 */
#define SSE "\x0f\x58\xc1"     /* addps xmm0, xmm1 */
#define SSE_MEM "\x0f\x10\x03" /* movups xmm0, [rbx] */
#define AVX "\xc5\xf8\x58\xc1" /* vaddps xmm0, xmm0, xmm1 */

static void test_gates(void **state)
{
    struct im *t = *state;

    set_cr(t, X86_CR0_TS, 0, 7);
    VM_FAULT(t, X86_NM, 0, 0, X87);
    VM_FAULT(t, X86_NM, 0, 0, FWAIT);
    VM_FAULT(t, X86_NM, 0, 0, MMX);
    VM_FAULT(t, X86_NM, 0, 0, SSE);
    VM_FAULT(t, X86_NM, 0, 0, SSE_MEM);
    set_cr(t, X86_CR0_EM, 0, 7);
    VM_FAULT(t, X86_NM, 0, 0, X87);
    VM_OK(t, FWAIT);
    VM_FAULT(t, X86_UD, 0, 0, MMX);
    VM_FAULT(t, X86_UD, 0, 0, SSE);
    set_cr(t, 0, X86_CR4_OSFXSR, 7);
    VM_OK(t, X87 MMX);
    VM_FAULT(t, X86_UD, 0, 0, SSE);
    VM_FAULT(t, X86_UD, 0, 0, SSE_MEM);
    if (!vm_has_avx2(t))
        return;
    set_cr(t, X86_CR0_TS, 0, 7);
    VM_FAULT(t, X86_NM, 0, 0, AVX);
    set_cr(t, 0, X86_CR4_OSXSAVE, 7);
    VM_FAULT(t, X86_UD, 0, 0, AVX);
    VM_OK(t, SSE);
    set_cr(t, 0, 0, 3);
    VM_FAULT(t, X86_UD, 0, 0, AVX);
    set_cr(t, 0, 0, 7);
    VM_OK(t, AVX);
    /* TS set by a program, after the block was decoded: mov cr0, rax in between */
    im_edit(t)->gpr[X86_RAX] = t->c->cr0 | X86_CR0_TS;
    im_done(t);
    VM_FAULT(t, X86_NM, 0, 6, SSE "\x0f\x22\xc0" SSE);
}

static void test_model(void **state)
{
    struct im *t = *state;

    t->model.feat_1_ecx &= ~(1U << 19);                /* no SSE4.1 */
    t->model.feat_1_ecx &= ~(1U << 28);                /* no AVX */
    VM_FAULT(t, X86_UD, 0, 0, "\x66\x0f\x38\x38\xc1"); /* pminsb */
    VM_FAULT(t, X86_UD, 0, 0, AVX);
    VM_OK(t, "\x66\x0f\x38\x00\xc1");                      /* pshufb is SSSE3 */
    VM_FAULT(t, X86_UD, 0, 0, "\x62\xf1\x7c\x48\x58\xc1"); /* AVX-512 is hidden */
}

/* ---- masked memory ---- */

static void test_masked_edge(void **state)
{
    struct im *t = *state;
    static const uint32_t low[8] = { ~0U, ~0U, ~0U, ~0U }, fifth[8] = { ~0U, 0, 0, 0, ~0U };
    uint8_t got[16];

    if (!vm_has_avx2(t))
        skip();
    vm_edge_present(t, false);
    im_edit(t)->gpr[X86_RBX] = VM_EDGE - 16;
    mem_write(t->v.mem, VM_EDGE - 16, "0123456789abcdef", 16);
    memcpy(t->c->fpu.vec[1], low, 32);
    im_done(t);
    VM_OK(t, "\xc4\xe2\x75\x8c\x03"); /* vpmaskmovd ymm0, ymm1, [rbx] */
    assert_memory_equal(t->c->fpu.vec[0], "0123456789abcdef\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 32);
    im_edit(t);
    vm_fill(t, 2, 0x60);
    im_done(t);
    VM_OK(t, "\xc4\xe2\x75\x2e\x13"); /* vmaskmovps [rbx], ymm1, ymm2 */
    mem_read(t->v.mem, VM_EDGE - 16, got, 16);
    assert_memory_equal(got, t->c->fpu.vec[2], 16);
    im_edit(t);
    memcpy(t->c->fpu.vec[1], fifth, 32);
    vm_fill(t, 2, 0x20);
    im_done(t);
    VM_FAULT(t, X86_PF, 1, 0, "\xc4\xe2\x75\x8c\x03");
    assert_int_equal(t->c->cr2, VM_EDGE);
    VM_FAULT(t, X86_PF, 1, 0, "\xc4\xe2\x75\x2e\x13");
    assert_int_equal(t->c->cr2, VM_EDGE);
    mem_read(t->v.mem, VM_EDGE - 16, got, 4);
    assert_int_equal(got[0], 0x60); /* and the element before it was not stored */
}

static void test_gather_restart(void **state)
{
    struct im *t = *state;
    static const uint32_t mask[4] = { 0x80000000, 0, 0xffffffff, 0x80000001 };
    int32_t index[4] = { 0, 1, 1024, 2 };
    const uint32_t *dst = (const uint32_t *)t->c->fpu.vec[0], *left = (const uint32_t *)t->c->fpu.vec[2];

    if (!vm_has_avx2(t))
        skip();
    for (uint32_t k = 0; k < 4; k++) {
        uint32_t v = 100 + k;
        mem_write(t->v.mem, IM_DATA + 4 * k, &v, 4);
    }
    im_edit(t)->gpr[X86_RBX] = IM_DATA;
    vm_fill(t, 0, 0x70);
    memcpy(t->c->fpu.vec[1], index, 16);
    memcpy(t->c->fpu.vec[2], mask, 16);
    im_done(t);
    vm_edge_present(t, false);
    VM_FAULT(t, X86_PF, 1, 0, "\xc4\xe2\x69\x90\x04\x8b"); /* vpgatherdd xmm0, [rbx + xmm1 * 4], xmm2 */
    assert_int_equal(t->c->cr2, VM_EDGE);
    assert_int_equal(dst[0], 100);
    assert_int_equal(dst[1], 0x77767574);
    assert_int_equal(left[0], 0);
    assert_int_equal(left[2], 0xffffffff);
    assert_int_equal(left[3], 0x80000001);
    vm_edge_present(t, true);
    VM_OK(t, "\xc4\xe2\x69\x90\x04\x8b");
    assert_int_equal(dst[0], 100);
    assert_int_equal(dst[1], 0x77767574);
    assert_int_equal(dst[3], 102);
    assert_int_equal(dst[4], 0);
    assert_int_equal(left[3], 0);
}

/* AVX-512 gathers and scatters need nothing of the host; the rest of AVX-512 cannot be shown where it is missing. */
static void test_avx512_scatter(void **state)
{
    struct im *t = *state;
    const uint64_t *dst = (const uint64_t *)t->c->fpu.vec[3];
    uint32_t got[4];

    t->model.feat_7_ebx |= 1U << 16;
    t->model.xcr0_mask |= 0xe6;
    im_edit(t)->xcr0 = 0xe7;
    t->c->gpr[X86_RBX] = VM_EDGE - 16;
    for (int32_t k = 0; k < 16; k++) {
        int32_t index = k - 2;
        memcpy(t->c->fpu.vec[1] + 4 * k, &index, 4);
        memset(t->c->fpu.vec[2] + 4 * k, 0x30 + k, 4);
    }
    t->c->fpu.k[1] = 0x2d; /* elements 0, 2, 3 and 5; 5 lies on the second page */
    im_done(t);
    vm_edge_present(t, false);
    mem_write(t->v.mem, VM_EDGE - 16, "................", 16);
    /* vpscatterdd [rbx + zmm1 * 4 + 8]{k1}, zmm2: the displacement byte counts in elements */
    VM_FAULT(t, X86_PF, 1, 0, "\x62\xf2\x7d\x49\xa0\x54\x8b\x02");
    assert_int_equal(t->c->cr2, VM_EDGE + 4);
    assert_int_equal(t->c->fpu.k[1], 0x20);
    mem_read(t->v.mem, VM_EDGE - 16, got, 16);
    assert_memory_equal(got, "0000....22223333", 16);
    vm_edge_present(t, true);
    VM_OK(t, "\x62\xf2\x7d\x49\xa0\x54\x8b\x02");
    assert_int_equal(t->c->fpu.k[1], 0);
    /* vpgatherqq zmm3{k2}, [rbx + zmm1 * 8] */
    im_edit(t);
    for (uint64_t k = 0; k < 8; k++)
        memcpy(t->c->fpu.vec[1] + 8 * k, &k, 8);
    memset(t->c->fpu.vec[3], 0x11, 64);
    t->c->fpu.k[2] = 0x81;
    im_done(t);
    VM_OK(t, "\x62\xf2\xfd\x4a\x91\x1c\xcb");
    assert_int_equal(dst[0], im_get64(t, VM_EDGE - 16));
    assert_int_equal(dst[1], 0x1111111111111111);
    assert_int_equal(dst[7], im_get64(t, VM_EDGE - 16 + 56));
    assert_int_equal(t->c->fpu.k[2], 0);
}

static void test_maskmov(void **state)
{
    struct im *t = *state;
    uint8_t got[16];

    im_edit(t)->gpr[X86_RDI] = VM_EDGE - 3;
    vm_fill(t, 1, 1);
    memset(t->c->fpu.vec[2], 0, 32);
    t->c->fpu.vec[2][0] = t->c->fpu.vec[2][5] = t->c->fpu.vec[2][15] = 0x80;
    im_done(t);
    mem_write(t->v.mem, VM_EDGE - 3, "................", 16);
    VM_OK(t, "\x66\x0f\xf7\xca"); /* maskmovdqu xmm1, xmm2 */
    mem_read(t->v.mem, VM_EDGE - 3, got, 16);
    assert_memory_equal(got, "\x01....\x06.........\x10", 16);
    /* movq2dq's way back: maskmovq leaves the x87 in MMX state */
    im_edit(t)->gpr[X86_RDI] = IM_DATA;
    im_done(t);
    mem_write(t->v.mem, IM_DATA, "........", 8);
    VM_OK(t, "\xf2\x0f\xd6\xc9\xf2\x0f\xd6\xd2\x0f\xf7\xca"); /* movdq2q mm1, xmm1; movdq2q mm2, xmm2; maskmovq */
    mem_read(t->v.mem, IM_DATA, got, 8);
    assert_memory_equal(got, "\x01....\x06..", 8);
    assert_int_equal(t->c->fpu.ftw, 0xff);
}

/* ---- device memory, code ---- */

static void test_mmio(void **state)
{
    struct im *t = *state;
    uint64_t seen[2];

    im_edit(t)->gpr[X86_RBX] = IM_MMIO;
    im_done(t);
    assert_int_equal(IM_EXEC(t, "\x0f\x10\x03\x0f\x11\x03\xf4"),
                     EXIT_MMIO); /* movups xmm0, [rbx]; movups [rbx], xmm0 */
    for (unsigned k = 0; k < 2; k++) {
        assert_int_equal(t->v.exit.io.addr, IM_MMIO + 8 * k);
        assert_int_equal(t->v.exit.io.len, 8);
        assert_false(t->v.exit.io.write);
        t->v.exit.io.data = 0x1111111111111111 * (k + 1);
        assert_int_equal(im_run(t), EXIT_MMIO);
    }
    for (unsigned k = 0; k < 2; k++) {
        assert_true(t->v.exit.io.write);
        seen[k] = t->v.exit.io.data;
        assert_int_equal(im_run(t), k ? EXIT_HLT : EXIT_MMIO);
    }
    assert_int_equal(seen[0], 0x1111111111111111);
    assert_int_equal(seen[1], 0x2222222222222222);
    /* fld1; fldz; fstp qword [rbx]: popped once, although the instruction ran twice */
    assert_int_equal(IM_EXEC(t, "\xd9\xe8\xd9\xee\xdd\x1b\xf4"), EXIT_MMIO);
    assert_int_equal(t->v.exit.io.data, 0);
    assert_int_equal(im_run(t), EXIT_HLT);
    assert_int_equal(t->c->fpu.fsw >> 11 & 7, 7);
    assert_int_equal(t->c->fpu.ftw, 0x80);
}

static void test_self_modifying(void **state)
{
    struct im *t = *state;

    /* movups [rbx], xmm0 overwrites the instruction behind it: mov eax, 1 becomes mov eax, 2 */
    im_edit(t)->gpr[X86_RBX] = IM_CODE + 3;
    memcpy(t->c->fpu.vec[0], "\xb8\x02\0\0\0\xf4\x90\x90\x90\x90\x90\x90\x90\x90\x90\x90", 16);
    im_done(t);
    VM_OK(t, "\x0f\x11\x03\xb8\x01\0\0\0\xf4\x90\x90\x90\x90\x90\x90\x90\x90");
    assert_int_equal(t->c->gpr[X86_RAX], 2);
}

/* More distinct instructions than code memory holds: it is flushed on the way, and nothing is lost. */
static void test_code_memory_full(void **state)
{
    enum { N = 90000 };
    struct im *t = *state;
    static uint8_t code[N * 8 + 1];
    uint32_t one = 1;

    for (uint32_t k = 0; k < N; k++) {
        uint32_t disp = k * 4;
        memcpy(code + 8 * k, "\x66\x0f\x6e\x8b", 4); /* movd xmm1, [rbx + disp] */
        memcpy(code + 8 * k + 4, &disp, 4);
    }
    code[N * 8] = 0xf4;
    im_load(t, 0x400000, code, sizeof(code));
    mem_write(t->v.mem, 0x800000 + 4 * (N - 1), &one, 4);
    im_edit(t)->rip = 0x400000;
    t->c->gpr[X86_RBX] = 0x800000;
    im_done(t);
    assert_int_equal(im_run(t), EXIT_HLT);
    assert_int_equal(t->c->rip, 0x400000 + sizeof(code));
    assert_int_equal(*(uint32_t *)t->c->fpu.vec[1], 1);
    if (t->v.ops == &engine_interp) /* another's may be larger */
        assert_true(t->v.stats.cache_flushes > 0);
}

/* ---- the host's own state, threads ---- */

static void test_host_clean(void **state)
{
    struct im *t = *state;
    uint32_t before = __builtin_ia32_stmxcsr();
    uint16_t env[14];

    im_edit(t)->fpu.mxcsr = 0x7f80; /* round to zero */
    im_done(t);
    VM_OK(t, "\xd9\xe8\xd9\xe8"); /* fld1; fld1 */
    assert_int_equal(__builtin_ia32_stmxcsr() & ~0x3fU, before & ~0x3fU);
    __asm__ volatile("fnstenv %0\n\tfldenv %0" : "=m"(env));
    assert_int_equal(env[0], 0x37f);
    assert_int_equal(env[4], 0xffff); /* all empty */
    assert_int_equal(t->c->fpu.mxcsr, 0x7f80);
    VM_OK(t, "\xde\xc1"); /* faddp: the guest's stack is still there */
    assert_int_equal(t->c->fpu.st[0][9], 0x40);
    assert_int_equal(t->c->fpu.ftw, 0x80);
}

static void *faults(void *arg)
{
    struct im *t = vm_new(arg);
    uintptr_t wrong = 0;

    for (unsigned k = 0; k < 300; k++) {
        im_edit(t)->fpu.mxcsr = 0x1f80 & ~(1U << 9);
        t->c->gpr[X86_RSP] = IM_STACK;
        t->c->gpr[X86_RBX] = IM_DATA + 8;
        memset(t->c->fpu.vec[1], 0, 16);
        *(float *)t->c->fpu.vec[0] = 1;
        im_done(t);
        IM_EXEC(t, "\x0f\x5e\xc1\xf4"); /* divps */
        wrong += im_vector(t) != X86_XM;
        IM_EXEC(t, "\x0f\x28\x03\xf4"); /* movaps, unaligned */
        wrong += im_vector(t) != X86_GP;
    }
    im_free(t);
    return (void *)wrong;
}

static void test_threads(void **state)
{
    struct im *t = *state;
    pthread_t th[3];
    void *wrong;

    for (unsigned k = 0; k < ARRAY_LEN(th); k++)
        assert_int_equal(pthread_create(&th[k], NULL, faults, (void *)t->v.ops), 0);
    for (unsigned k = 0; k < ARRAY_LEN(th); k++) {
        assert_int_equal(pthread_join(th[k], &wrong), 0);
        assert_int_equal((uintptr_t)wrong, 0);
    }
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_results),
        TEST(test_general_registers),
        TEST(test_flags),
        TEST(test_implicit_registers),
        TEST(test_vex_clears),
        TEST(test_alignment),
        TEST(test_page_crossing),
        TEST(test_simd_exception),
        TEST(test_x87_exception),
        TEST(test_x87_without_ne),
        TEST(test_gates),
        TEST(test_model),
        TEST(test_masked_edge),
        TEST(test_gather_restart),
        TEST(test_avx512_scatter),
        TEST(test_maskmov),
        TEST(test_mmio),
        TEST(test_self_modifying),
        TEST(test_code_memory_full),
        TEST(test_host_clean),
        TEST(test_threads),
    };

    return ENGINE_TESTS_RUN("vector", tests);
}
