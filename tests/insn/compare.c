/* SPDX-License-Identifier: MIT */
/* Are two results of one case equal? And how to show a case that is not. */
#include <Zydis/Zydis.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "insn.h"
#include "partial.h"
#include "x86/fault.h"

#define TASK_SIZE_MAX 0x7ffffffff000UL
#define FIP_MASK 0xffffffffffffUL /* how many bits are kept depends on the model */

static const char *const reg_name[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };

static const char *const sreg_name[6] = { "es", "cs", "ss", "ds", "fs", "gs" };

struct diff {
    struct insn_verdict *v;
    bool found;
};

static void differ(struct diff *d, const char *what, uint64_t a, uint64_t b)
{
    char *text = d->v->text;
    size_t n = strlen(text), len = sizeof(d->v->text);

    d->found = true;
    if (n + 1 < len)
        snprintf(text + n, len - n, "%s%s %" PRIx64 "/%" PRIx64, n ? ", " : "", what, a, b);
}

static void cmp(struct diff *d, const char *what, uint64_t a, uint64_t b)
{
    if (a != b)
        differ(d, what, a, b);
}

static void cmp_bytes(struct diff *d, const char *what, const uint8_t *a, const uint8_t *b, unsigned n)
{
    char name[24];
    uint64_t x = 0, y = 0;

    for (unsigned k = 0; k < n; k += 8) {
        unsigned m = n - k < 8 ? n - k : 8;

        memcpy(&x, a + k, m);
        memcpy(&y, b + k, m);
        if (x != y) {
            snprintf(name, sizeof(name), "%s+%u", what, k);
            differ(d, name, x, y);
            return;
        }
    }
}

static void cmp_fpu(struct diff *d, const struct x86_fpu *a, const struct x86_fpu *b, bool pointers)
{
    char name[8];

    cmp(d, "fcw", a->fcw, b->fcw);
    cmp(d, "fsw", a->fsw, b->fsw);
    cmp(d, "ftw", a->ftw, b->ftw);
    if (pointers || (a->fsw & 0x80)) { /* AMD keeps them only with an exception pending */
        cmp(d, "fop", a->fop, b->fop);
        cmp(d, "fip", a->fip & FIP_MASK, b->fip & FIP_MASK);
        if (!__builtin_cpu_is("intel")) /* what it is without a memory operand depends on the model */
            cmp(d, "fdp", a->fdp, b->fdp);
    }
    for (unsigned i = 0; i < 8; i++) {
        snprintf(name, sizeof(name), "st%u", i);
        cmp_bytes(d, name, a->st[i], b->st[i], 10);
    }
    for (unsigned i = 0; i < 8; i++)
        cmp(d, "k", a->k[i], b->k[i]);
}

static void cmp_vec(struct diff *d, const struct x86_fpu *a, const struct x86_fpu *b)
{
    char name[8];

    for (unsigned i = 0; i < 32; i++) {
        snprintf(name, sizeof(name), "vec%u", i);
        cmp_bytes(d, name, a->vec[i], b->vec[i], 64);
    }
}

/* The kernel's return to user code turns null selectors 1 to 3 into 0. */
static uint16_t selector(uint16_t s)
{
    return s & 0xfffc ? s : 0;
}

static void cmp_mem(struct diff *d, const struct insn_result *a, const struct insn_result *b)
{
    char name[16];

    cmp(d, "changed lines", a->lines, b->lines);
    for (unsigned i = 0; i < a->lines && i < b->lines && i < INSN_LINES; i++) {
        if (a->line[i].idx != b->line[i].idx) {
            differ(d, "changed line", a->line[i].idx, b->line[i].idx);
            return;
        }
        snprintf(name, sizeof(name), "line%u", a->line[i].idx);
        cmp_bytes(d, name, a->line[i].data, b->line[i].data, INSN_LINE);
    }
}

bool insn_equal(const struct insn_compare *o, const struct insn_case *c, const struct insn_result *a,
                const struct insn_result *b, struct insn_verdict *v)
{
    struct diff d = { .v = v };
    uint64_t fl = (a->out.rflags ^ b->out.rflags), ea = a->error, eb = b->error;

    v->text[0] = 0;
    if (a->status != INSN_OK || b->status != INSN_OK) {
        snprintf(v->text, sizeof(v->text), "%s%s", a->text, b->text);
        return a->status == b->status;
    }
    if (insn_other_fault(c, a, b))
        return true;
    cmp(&d, "vector", a->vector, b->vector);
    if (a->vector == X86_PF && a->cr2 >= TASK_SIZE_MAX) { /* Linux says P there, whatever the page tables say */
        ea |= X86_PF_P;
        eb |= X86_PF_P;
    }
    cmp(&d, "rip", a->out.rip, b->out.rip);
    unsigned part = insn_partial(c, a);

    if (a->vector == X86_PF && (part & PARTIAL_MEM)) { /* one item lies on a page, another on a missing one */
        ea |= X86_PF_P;
        eb |= X86_PF_P;
    }
    cmp(&d, "error", ea, eb);
    if (part & PARTIAL_CR2)
        cmp(&d, "cr2", a->cr2 & PAGE_MASK, b->cr2 & PAGE_MASK);
    else if (!(part & PARTIAL_MEM) || a->cr2 - b->cr2 + 512 > 1024) /* which of the items came first */
        cmp(&d, "cr2", a->cr2, b->cr2);
    for (unsigned i = 0; i < (c->mode32 ? 8U : 16U) && !(part & PARTIAL_GPR); i++) {
        /* upper halves are undefined in and after compatibility mode; in fact only that of RSP changes */
        bool half = c->mode32 || (i == X86_RSP && a->out.sreg[X86_CS] != 0x33) || (part & PARTIAL_UPPER);
        uint64_t mask = half ? 0xffffffff : ~0UL;

        cmp(&d, reg_name[i], a->out.gpr[i] & mask, b->out.gpr[i] & mask);
    }
    if (fl && !o->strict_flags && a->out.rip != c->in.rip)
        fl &= ~insn_flags_undefined(c);
    if (part & PARTIAL_FLAGS)
        fl &= ~(uint64_t)X86_FL_ARITH;
    if (part & PARTIAL_RF)
        fl &= ~(uint64_t)X86_FL_RF;
    if (fl)
        differ(&d, "rflags", a->out.rflags, b->out.rflags);
    for (unsigned i = 0; i < 6; i++)
        cmp(&d, sreg_name[i], selector(a->out.sreg[i]), selector(b->out.sreg[i]));
    cmp(&d, "fs_base", a->out.fs_base, b->out.fs_base);
    cmp(&d, "gs_base", a->out.gs_base, b->out.gs_base);
    cmp_fpu(&d, &a->out.fpu, &b->out.fpu, o->fpu_pointers);
    if (!(part & PARTIAL_MXCSR))
        cmp(&d, "mxcsr", a->out.fpu.mxcsr, b->out.fpu.mxcsr);
    if (!(part & PARTIAL_VECTORS))
        cmp_vec(&d, &a->out.fpu, &b->out.fpu);
    if (!(part & PARTIAL_MEM))
        cmp_mem(&d, a, b);
    return !d.found;
}

static void print_flags(uint64_t f)
{
    static const struct {
        uint32_t bit;
        char name[3];
    } n[] = { { X86_FL_OF, "O" },  { X86_FL_DF, "D" },  { X86_FL_TF, "T" }, { X86_FL_SF, "S" },
              { X86_FL_ZF, "Z" },  { X86_FL_AF, "A" },  { X86_FL_PF, "P" }, { X86_FL_CF, "C" },
              { X86_FL_RF, "RF" }, { X86_FL_AC, "AC" }, { X86_FL_NT, "NT" } };

    for (unsigned i = 0; i < ARRAY_LEN(n); i++)
        if (f & n[i].bit)
            printf("%s ", n[i].name);
    printf("(%#" PRIx64 ")\n", f);
}

static void print_vec(const uint8_t *v)
{
    for (int i = 31; i >= 0; i--)
        printf("%02x%s", v[i], i % 8 ? "" : " ");
}

static void print_state(const struct insn_state *s, const struct insn_state *base)
{
    for (unsigned i = 0; i < 16; i++)
        if (!base || s->gpr[i] != base->gpr[i])
            printf("    %-3s %016" PRIx64 "\n", reg_name[i], s->gpr[i]);
    printf("    rip %016" PRIx64 "  fs %" PRIx64 " gs %" PRIx64 "\n    flags ", s->rip, s->fs_base, s->gs_base);
    print_flags(s->rflags);
    const struct x86_fpu *f = &s->fpu;

    printf("    fcw %04x fsw %04x ftw %02x mxcsr %08x fop %x fip %" PRIx64 " fdp %" PRIx64 "\n", f->fcw, f->fsw, f->ftw,
           f->mxcsr, f->fop, f->fip, f->fdp);
    for (unsigned i = 0; i < 8; i++) {
        uint64_t m;
        uint16_t e;

        if (base && !memcmp(f->st[i], base->fpu.st[i], 10))
            continue;
        memcpy(&m, f->st[i], 8);
        memcpy(&e, f->st[i] + 8, 2);
        printf("    st%u %04x %016" PRIx64 "\n", i, e, m);
    }
    for (unsigned i = 0; i < 16; i++) {
        if (base && !memcmp(f->vec[i], base->fpu.vec[i], 64))
            continue;
        printf("    ymm%-2u ", i);
        print_vec(f->vec[i]);
        printf("\n");
    }
}

void insn_print_case(const struct insn_case *c)
{
    ZydisDisassembledInstruction d;
    unsigned off = 0;

    printf("  code at %#lx (%s):", INSN_CODE + c->code_off, c->mode32 ? "32-bit" : "64-bit");
    for (unsigned i = 0; i < c->code_len; i++)
        printf(" %02x", c->code[i]);
    printf("\n");
    while (off < c->code_len) {
        if (!ZYAN_SUCCESS(
                ZydisDisassembleIntel(c->mode32 ? ZYDIS_MACHINE_MODE_LONG_COMPAT_32 : ZYDIS_MACHINE_MODE_LONG_64,
                                      INSN_CODE + c->code_off + off, c->code + off, c->code_len - off, &d))) {
            printf("    %#lx  (no instruction)\n", INSN_CODE + c->code_off + off);
            break;
        }
        printf("    %#lx  %s\n", INSN_CODE + c->code_off + off, d.text);
        off += d.info.length;
    }
    printf("  before:\n");
    print_state(&c->in, NULL);
    for (unsigned i = 0; i < c->patches; i++) {
        printf("    memory image +%#x:", c->patch[i].off);
        for (unsigned k = 0; k < c->patch[i].len; k++)
            printf("%s%02x", k % 8 ? "" : " ", c->patch[i].data[k]);
        printf("\n");
    }
}

void insn_print_result(const struct insn_case *c, const char *who, const struct insn_result *r)
{
    static const char *const st[] = { "ok", "lost", "system call", "broken" };

    printf("  after, %s: ", who);
    if (r->status != INSN_OK) {
        printf("%s %s\n", st[r->status], r->text);
        return;
    }
    printf("vector %u error %#x cr2 %#" PRIx64 "; changed:\n", r->vector, r->error, r->cr2);
    print_state(&r->out, &c->in);
    for (unsigned i = 0; i < r->lines && i < INSN_LINES && i < 6; i++) {
        printf("    line %#x:", r->line[i].idx * INSN_LINE);
        for (unsigned k = 0; k < INSN_LINE; k++)
            printf("%s%02x", k % 8 ? "" : " ", r->line[i].data[k]);
        printf("\n");
    }
}
