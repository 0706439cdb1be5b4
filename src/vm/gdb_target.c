/* SPDX-License-Identifier: MIT */
/*
 * Registers and memory for the gdb stub. The target description is gdb's standard amd64 one (core, sse, segments), so
 * every gdb shows it without being told; register n below is regnum n there.
 */
#include "vm/gdb_target.h"

#include <errno.h>
#include <string.h>

#include "mem/mem.h"
#include "x86/paging.h"

const char gdb_target_xml[] =
    "<?xml version=\"1.0\"?><!DOCTYPE target SYSTEM \"gdb-target.dtd\"><target><architecture>i386:x86-64</architecture>"
    "<feature name=\"org.gnu.gdb.i386.core\">"
    "<flags id=\"eflags\" size=\"4\"><field name=\"CF\" start=\"0\" end=\"0\"/><field name=\"PF\" start=\"2\" "
    "end=\"2\"/>"
    "<field name=\"AF\" start=\"4\" end=\"4\"/><field name=\"ZF\" start=\"6\" end=\"6\"/><field name=\"SF\" "
    "start=\"7\" end=\"7\"/>"
    "<field name=\"TF\" start=\"8\" end=\"8\"/><field name=\"IF\" start=\"9\" end=\"9\"/><field name=\"DF\" "
    "start=\"10\" end=\"10\"/>"
    "<field name=\"OF\" start=\"11\" end=\"11\"/></flags>"
    "<reg name=\"rax\" bitsize=\"64\" type=\"int64\"/><reg name=\"rbx\" bitsize=\"64\" type=\"int64\"/>"
    "<reg name=\"rcx\" bitsize=\"64\" type=\"int64\"/><reg name=\"rdx\" bitsize=\"64\" type=\"int64\"/>"
    "<reg name=\"rsi\" bitsize=\"64\" type=\"int64\"/><reg name=\"rdi\" bitsize=\"64\" type=\"int64\"/>"
    "<reg name=\"rbp\" bitsize=\"64\" type=\"data_ptr\"/><reg name=\"rsp\" bitsize=\"64\" type=\"data_ptr\"/>"
    "<reg name=\"r8\" bitsize=\"64\" type=\"int64\"/><reg name=\"r9\" bitsize=\"64\" type=\"int64\"/>"
    "<reg name=\"r10\" bitsize=\"64\" type=\"int64\"/><reg name=\"r11\" bitsize=\"64\" type=\"int64\"/>"
    "<reg name=\"r12\" bitsize=\"64\" type=\"int64\"/><reg name=\"r13\" bitsize=\"64\" type=\"int64\"/>"
    "<reg name=\"r14\" bitsize=\"64\" type=\"int64\"/><reg name=\"r15\" bitsize=\"64\" type=\"int64\"/>"
    "<reg name=\"rip\" bitsize=\"64\" type=\"code_ptr\"/><reg name=\"eflags\" bitsize=\"32\" type=\"eflags\"/>"
    "<reg name=\"cs\" bitsize=\"32\" type=\"int32\"/><reg name=\"ss\" bitsize=\"32\" type=\"int32\"/>"
    "<reg name=\"ds\" bitsize=\"32\" type=\"int32\"/><reg name=\"es\" bitsize=\"32\" type=\"int32\"/>"
    "<reg name=\"fs\" bitsize=\"32\" type=\"int32\"/><reg name=\"gs\" bitsize=\"32\" type=\"int32\"/>"
    "<reg name=\"st0\" bitsize=\"80\" type=\"i387_ext\"/><reg name=\"st1\" bitsize=\"80\" type=\"i387_ext\"/>"
    "<reg name=\"st2\" bitsize=\"80\" type=\"i387_ext\"/><reg name=\"st3\" bitsize=\"80\" type=\"i387_ext\"/>"
    "<reg name=\"st4\" bitsize=\"80\" type=\"i387_ext\"/><reg name=\"st5\" bitsize=\"80\" type=\"i387_ext\"/>"
    "<reg name=\"st6\" bitsize=\"80\" type=\"i387_ext\"/><reg name=\"st7\" bitsize=\"80\" type=\"i387_ext\"/>"
    "<reg name=\"fctrl\" bitsize=\"32\" type=\"int\" group=\"float\"/><reg name=\"fstat\" bitsize=\"32\" type=\"int\" "
    "group=\"float\"/>"
    "<reg name=\"ftag\" bitsize=\"32\" type=\"int\" group=\"float\"/><reg name=\"fiseg\" bitsize=\"32\" type=\"int\" "
    "group=\"float\"/>"
    "<reg name=\"fioff\" bitsize=\"32\" type=\"int\" group=\"float\"/><reg name=\"foseg\" bitsize=\"32\" type=\"int\" "
    "group=\"float\"/>"
    "<reg name=\"fooff\" bitsize=\"32\" type=\"int\" group=\"float\"/><reg name=\"fop\" bitsize=\"32\" type=\"int\" "
    "group=\"float\"/>"
    "</feature><feature name=\"org.gnu.gdb.i386.sse\">"
    "<vector id=\"v4f\" type=\"ieee_single\" count=\"4\"/><vector id=\"v2d\" type=\"ieee_double\" count=\"2\"/>"
    "<vector id=\"v16i8\" type=\"int8\" count=\"16\"/><vector id=\"v8i16\" type=\"int16\" count=\"8\"/>"
    "<vector id=\"v4i32\" type=\"int32\" count=\"4\"/><vector id=\"v2i64\" type=\"int64\" count=\"2\"/>"
    "<union id=\"vec128\"><field name=\"v4_float\" type=\"v4f\"/><field name=\"v2_double\" type=\"v2d\"/>"
    "<field name=\"v16_int8\" type=\"v16i8\"/><field name=\"v8_int16\" type=\"v8i16\"/><field name=\"v4_int32\" "
    "type=\"v4i32\"/>"
    "<field name=\"v2_int64\" type=\"v2i64\"/><field name=\"uint128\" type=\"uint128\"/></union>"
    "<reg name=\"xmm0\" bitsize=\"128\" type=\"vec128\" regnum=\"40\"/><reg name=\"xmm1\" bitsize=\"128\" "
    "type=\"vec128\"/>"
    "<reg name=\"xmm2\" bitsize=\"128\" type=\"vec128\"/><reg name=\"xmm3\" bitsize=\"128\" type=\"vec128\"/>"
    "<reg name=\"xmm4\" bitsize=\"128\" type=\"vec128\"/><reg name=\"xmm5\" bitsize=\"128\" type=\"vec128\"/>"
    "<reg name=\"xmm6\" bitsize=\"128\" type=\"vec128\"/><reg name=\"xmm7\" bitsize=\"128\" type=\"vec128\"/>"
    "<reg name=\"xmm8\" bitsize=\"128\" type=\"vec128\"/><reg name=\"xmm9\" bitsize=\"128\" type=\"vec128\"/>"
    "<reg name=\"xmm10\" bitsize=\"128\" type=\"vec128\"/><reg name=\"xmm11\" bitsize=\"128\" type=\"vec128\"/>"
    "<reg name=\"xmm12\" bitsize=\"128\" type=\"vec128\"/><reg name=\"xmm13\" bitsize=\"128\" type=\"vec128\"/>"
    "<reg name=\"xmm14\" bitsize=\"128\" type=\"vec128\"/><reg name=\"xmm15\" bitsize=\"128\" type=\"vec128\"/>"
    "<reg name=\"mxcsr\" bitsize=\"32\" type=\"int\" group=\"vector\"/></feature>"
    "<feature name=\"org.gnu.gdb.i386.segments\"><reg name=\"fs_base\" bitsize=\"64\" type=\"int\" regnum=\"57\"/>"
    "<reg name=\"gs_base\" bitsize=\"64\" type=\"int\"/></feature></target>";

enum {
    R_GPR = 0,
    R_RIP = 16,
    R_EFLAGS = 17,
    R_SEG = 18,
    R_ST = 24,
    R_FCTRL = 32,
    R_XMM = 40,
    R_MXCSR = 56,
    R_FS_BASE = 57,
    R_GS_BASE = 58,
    R_COUNT = 59
};

static const uint8_t gpr_order[16] = { X86_RAX, X86_RBX, X86_RCX, X86_RDX, X86_RSI, X86_RDI, X86_RBP, X86_RSP,
                                       X86_R8,  X86_R9,  X86_R10, X86_R11, X86_R12, X86_R13, X86_R14, X86_R15 };
static const uint8_t seg_order[6] = { X86_CS, X86_SS_SEG, X86_DS, X86_ES, X86_FS, X86_GS };

unsigned gdb_reg_count(void)
{
    return R_COUNT;
}

unsigned gdb_reg_size(unsigned n)
{
    if (n <= R_RIP || n == R_FS_BASE || n == R_GS_BASE)
        return 8;
    if (n >= R_ST && n < R_ST + 8)
        return 10;
    if (n >= R_XMM && n < R_MXCSR)
        return 16;
    return n < R_COUNT ? 4 : 0;
}

static uint32_t fpu_control(const struct x86_fpu *f, unsigned i)
{
    switch (i) {
    case 0:
        return f->fcw;
    case 1:
        return f->fsw;
    case 2:
        return f->ftw;
    case 4:
        return (uint32_t)f->fip;
    case 6:
        return (uint32_t)f->fdp;
    case 7:
        return f->fop;
    default:
        return 0;
    }
}

void gdb_reg_read(const struct cpu_state *c, unsigned n, uint8_t *buf)
{
    uint64_t v = 0;
    if (n >= R_ST && n < R_FCTRL) {
        memcpy(buf, c->fpu.st[n - R_ST], 10);
        return;
    }
    if (n >= R_XMM && n < R_MXCSR) {
        memcpy(buf, c->fpu.vec[n - R_XMM], 16);
        return;
    }
    if (n < R_RIP)
        v = c->gpr[gpr_order[n]];
    else if (n == R_RIP) /* gdb knows linear addresses only */
        v = x86_code_mode(c) == X86_MODE_64 ? c->rip : (uint32_t)(c->seg[X86_CS].base + c->rip);
    else if (n == R_EFLAGS)
        v = c->rflags;
    else if (n < R_ST)
        v = c->seg[seg_order[n - R_SEG]].sel;
    else if (n >= R_FCTRL && n < R_XMM)
        v = fpu_control(&c->fpu, n - R_FCTRL);
    else if (n == R_MXCSR)
        v = c->fpu.mxcsr;
    else if (n == R_FS_BASE)
        v = c->seg[X86_FS].base;
    else if (n == R_GS_BASE)
        v = c->seg[X86_GS].base;
    memcpy(buf, &v, gdb_reg_size(n));
}

void gdb_reg_write(struct cpu_state *c, unsigned n, const uint8_t *buf)
{
    uint64_t v = 0;
    if (n >= R_ST && n < R_FCTRL) {
        memcpy(c->fpu.st[n - R_ST], buf, 10);
        return;
    }
    if (n >= R_XMM && n < R_MXCSR) {
        memcpy(c->fpu.vec[n - R_XMM], buf, 16);
        return;
    }
    memcpy(&v, buf, gdb_reg_size(n));
    if (n < R_RIP)
        c->gpr[gpr_order[n]] = v;
    else if (n == R_RIP)
        c->rip = x86_code_mode(c) == X86_MODE_64 ? v : (uint32_t)(v - c->seg[X86_CS].base);
    else if (n == R_EFLAGS)
        c->rflags = (c->rflags & ~0x3f7fd5UL & ~(uint64_t)X86_FL_VM) | (c->rflags & X86_FL_VM) |
                    (v & 0x3f7fd5 & ~(uint64_t)X86_FL_VM) | X86_FL_1;
    else if (n == R_FS_BASE && x86_canonical(v))
        c->seg[X86_FS].base = v;
    else if (n == R_GS_BASE && x86_canonical(v))
        c->seg[X86_GS].base = v;
}

/* ---- memory ---- */

static bool phys_read(void *arg, gpa_t gpa, void *buf, unsigned len)
{
    return mem_read(arg, gpa, buf, len) == 0;
}

static bool phys_set_bits(void *arg, gpa_t gpa, unsigned len, uint64_t old, uint64_t bits)
{
    (void)arg, (void)gpa, (void)len, (void)old, (void)bits;
    return true; /* a debugger leaves no trace in the page tables */
}

/* Walks with supervisor rights; user pages are looked at with user rights where SMAP forbids the other. */
static bool translate(const struct cpu_state *c, struct mem *m, gva_t va, gpa_t *gpa)
{
    const struct x86_phys p = { .read = phys_read, .set_bits = phys_set_bits, .arg = m };
    struct x86_xlate x;
    struct x86_fault f;
    if (x86_long_mode(c) && !x86_canonical(va))
        return false;
    if (!x86_walk(c, &p, va, X86_ACC_READ | X86_ACC_IMPLICIT | X86_ACC_PROBE, &x, &f) &&
        !x86_walk(c, &p, va, X86_ACC_READ | X86_ACC_USER | X86_ACC_PROBE, &x, &f))
        return false;
    *gpa = x.gpa;
    return true;
}

int gdb_mem_read(const struct cpu_state *c, struct mem *m, gva_t va, void *buf, unsigned len)
{
    uint8_t *p = buf;
    while (len) {
        gpa_t gpa;
        unsigned n = (unsigned)(PAGE_SIZE - (va & (PAGE_SIZE - 1)));
        if (n > len)
            n = len;
        if (!translate(c, m, va, &gpa) || mem_read(m, gpa, p, n) < 0)
            return -EFAULT;
        p += n, va += n, len -= n;
    }
    return 0;
}

int gdb_mem_write(const struct cpu_state *c, struct mem *m, gva_t va, const void *buf, unsigned len)
{
    const uint8_t *p = buf;
    while (len) {
        gpa_t gpa;
        unsigned n = (unsigned)(PAGE_SIZE - (va & (PAGE_SIZE - 1)));
        if (n > len)
            n = len;
        if (!translate(c, m, va, &gpa) || mem_write(m, gpa, p, n) < 0)
            return -EFAULT;
        p += n, va += n, len -= n;
    }
    return 0;
}
