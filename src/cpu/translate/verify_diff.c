/* SPDX-License-Identifier: MIT */
/* Verifying: whether two states are the same, and telling a person how they are not. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <Zydis/Zydis.h>

#include "cpu/translate/verify.h"

static const char *const gpr_name[16] = { "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15" };
static const char *const seg_name[6] = { "es", "cs", "ss", "ds", "fs", "gs" };

/* What is shown as one number; the rest is below. */
static const struct field {
    const char *name;
    uint16_t off, size;
} fields[] = {
#define FIELD(f)                                                                                                       \
    {                                                                                                                  \
#f, offsetof(struct cpu_state, f), sizeof(((struct cpu_state *)0)->f)                                          \
    }
    FIELD(rip),
    FIELD(cpl),
    FIELD(int_shadow),
    FIELD(nmi_blocked),
    FIELD(pending_db),
    FIELD(ldtr.sel),
    FIELD(ldtr.base),
    FIELD(tr.sel),
    FIELD(tr.base),
    FIELD(gdtr.base),
    FIELD(gdtr.limit),
    FIELD(idtr.base),
    FIELD(idtr.limit),
    FIELD(cr0),
    FIELD(cr2),
    FIELD(cr3),
    FIELD(cr4),
    FIELD(xcr0),
    FIELD(dr[0]),
    FIELD(dr[1]),
    FIELD(dr[2]),
    FIELD(dr[3]),
    FIELD(dr[6]),
    FIELD(dr[7]),
    FIELD(msr.efer),
    FIELD(msr.star),
    FIELD(msr.lstar),
    FIELD(msr.cstar),
    FIELD(msr.sfmask),
    FIELD(msr.kernel_gs_base),
    FIELD(msr.sysenter_cs),
    FIELD(msr.sysenter_esp),
    FIELD(msr.sysenter_eip),
    FIELD(msr.pat),
    FIELD(msr.tsc_aux),
    FIELD(msr.misc_enable),
    FIELD(msr.debugctl),
    FIELD(msr.spec_ctrl),
    FIELD(tsc_offset),
    FIELD(fpu.fcw),
    FIELD(fpu.fsw),
    FIELD(fpu.ftw),
    FIELD(fpu.fop),
    FIELD(fpu.fip),
    FIELD(fpu.fdp),
    FIELD(fpu.fcs),
    FIELD(fpu.fds),
    FIELD(fpu.mxcsr),
#undef FIELD
};

static uint64_t value(const struct cpu_state *c, const struct field *f)
{
    uint64_t v = 0;

    memcpy(&v, (const uint8_t *)c + f->off, f->size);
    return v;
}

/* ---- comparing ---- */

static bool same_gpr(uint64_t a, uint64_t b, unsigned k, const struct ver_open *open)
{
    return a == b || (open->gpr >> k & 1) || (open->upper && (uint32_t)a == (uint32_t)b);
}

static bool same_gprs(const struct cpu_state *a, const struct cpu_state *b, const struct ver_open *open)
{
    if (!memcmp(a->gpr, b->gpr, 16 * sizeof(a->gpr[0])))
        return true;
    for (unsigned k = 0; k < 16; k++)
        if (!same_gpr(a->gpr[k], b->gpr[k], k, open))
            return false;
    return true;
}

bool ver_same_head(const struct cpu_state *a, const struct cpu_state *b, const struct ver_open *open)
{
    return a->rip == b->rip && !((a->rflags ^ b->rflags) & ~open->flags) && same_gprs(a, b, open);
}

/* All that is not padding, when a comparison of all bytes has found something. */
static bool same_rest_slowly(const struct cpu_state *a, const struct cpu_state *b)
{
    for (unsigned k = 0; k < ARRAY_LEN(fields); k++)
        if (fields[k].off >= VER_HEAD && value(a, &fields[k]) != value(b, &fields[k]))
            return false;
    for (unsigned k = 0; k < ARRAY_LEN(seg_name); k++)
        if (a->seg[k].base != b->seg[k].base || a->seg[k].limit != b->seg[k].limit ||
            a->seg[k].attr != b->seg[k].attr || a->seg[k].sel != b->seg[k].sel)
            return false;
    for (unsigned k = 0; k < 8; k++)
        if (memcmp(a->fpu.st[k], b->fpu.st[k], 10) != 0)
            return false;
    return memcmp(a->fpu.vec, b->fpu.vec, VER_VECS * sizeof(a->fpu.vec[0])) == 0;
}

bool ver_same_rest(const struct cpu_state *a, const struct cpu_state *b)
{
    return !memcmp(ver_rest_of(a), ver_rest_of(b), VER_REST) || same_rest_slowly(a, b);
}

/* ---- the report ---- */

static void put_flags(FILE *f, uint64_t fl)
{
    static const struct {
        uint32_t bit;
        const char *name;
    } n[] = { { X86_FL_OF, "OF" }, { X86_FL_DF, "DF" }, { X86_FL_IF, "IF" }, { X86_FL_TF, "TF" }, { X86_FL_SF, "SF" },
              { X86_FL_ZF, "ZF" }, { X86_FL_AF, "AF" }, { X86_FL_PF, "PF" }, { X86_FL_CF, "CF" }, { X86_FL_RF, "RF" },
              { X86_FL_VM, "VM" }, { X86_FL_AC, "AC" }, { X86_FL_NT, "NT" }, { X86_FL_ID, "ID" } };
    const char *sep = "";

    fprintf(f, "%#" PRIx64 " (", fl);
    for (unsigned k = 0; k < ARRAY_LEN(n); k++)
        if (fl & n[k].bit) {
            fprintf(f, "%s%s", sep, n[k].name);
            sep = " ";
        }
    fputc(')', f);
}

static void put_bytes(FILE *f, const uint8_t *p, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        fprintf(f, "%02x%s", p[k], k + 1 == n || k % 8 != 7 ? "" : " ");
}

/* A register of many bytes, the highest first. */
static void put_wide(FILE *f, const uint8_t *p, unsigned n)
{
    for (unsigned k = n; k-- > 0;)
        fprintf(f, "%02x%s", p[k], k && k % 8 == 0 ? " " : "");
}

static void pair64(FILE *f, const char *name, uint64_t a, uint64_t b)
{
    if (a != b)
        fprintf(f, "    %-20s %#20" PRIx64 "  %#20" PRIx64 "\n", name, a, b);
}

static void pair_wide(FILE *f, const char *name, const uint8_t *a, const uint8_t *b, unsigned n)
{
    if (!memcmp(a, b, n))
        return;
    fprintf(f, "    %-20s ", name);
    put_wide(f, a, n);
    fprintf(f, "\n    %-20s ", "");
    put_wide(f, b, n);
    fputc('\n', f);
}

static void put_state_diff(FILE *f, const struct cpu_state *a, const struct cpu_state *b, const struct ver_open *open)
{
    char name[16];

    for (unsigned k = 0; k < 16; k++)
        if (!same_gpr(a->gpr[k], b->gpr[k], k, open))
            pair64(f, gpr_name[k], a->gpr[k], b->gpr[k]);
    if ((a->rflags ^ b->rflags) & ~open->flags) {
        fputs("    rflags               ", f);
        put_flags(f, a->rflags);
        fputs("  ", f);
        put_flags(f, b->rflags);
        if (open->flags) {
            fputs("  undefined: ", f);
            put_flags(f, open->flags);
        }
        fputc('\n', f);
    }
    for (unsigned k = 0; k < ARRAY_LEN(fields); k++)
        pair64(f, fields[k].name, value(a, &fields[k]), value(b, &fields[k]));
    for (unsigned k = 0; k < ARRAY_LEN(seg_name); k++) {
        snprintf(name, sizeof(name), "%s.sel", seg_name[k]);
        pair64(f, name, a->seg[k].sel, b->seg[k].sel);
        snprintf(name, sizeof(name), "%s.base", seg_name[k]);
        pair64(f, name, a->seg[k].base, b->seg[k].base);
        snprintf(name, sizeof(name), "%s.limit", seg_name[k]);
        pair64(f, name, a->seg[k].limit, b->seg[k].limit);
        snprintf(name, sizeof(name), "%s.attr", seg_name[k]);
        pair64(f, name, a->seg[k].attr, b->seg[k].attr);
    }
    for (unsigned k = 0; k < 8; k++) {
        snprintf(name, sizeof(name), "st%u", k);
        pair_wide(f, name, a->fpu.st[k], b->fpu.st[k], 10);
    }
    for (unsigned k = 0; k < VER_VECS; k++) {
        snprintf(name, sizeof(name), "ymm%u", k);
        pair_wide(f, name, a->fpu.vec[k], b->fpu.vec[k], 32);
    }
}

/* Where an operand's bytes, or those around it on its lines, are not what they must be. */
static bool bad_byte(const struct ver_mem *m, const struct ver_page *p, unsigned off)
{
    return p->shadow[off] != (ver_mem_written(m, p, off) ? p->real : p->old)[off];
}

static void put_memory_diff(FILE *f, const struct ver_mem *m)
{
    for (unsigned k = 0; k < m->n_touches; k++) {
        const struct ver_touch *t = &m->touch[k];
        unsigned off = ver_off(t), end = off + t->len, n;

        while (off < end && !bad_byte(m, t->p, off))
            off++;
        if (off == end)
            continue;
        off = off - ver_off(t) < 16 ? ver_off(t) : off;
        n = end - off < VER_OPERAND ? end - off : VER_OPERAND;
        fprintf(f, "    [%016" PRIx64 "] %u byte%s\n      translator         ", (t->lin & PAGE_MASK) + off, n,
                n == 1 ? "" : "s");
        put_bytes(f, t->p->shadow + off, n);
        fputs("\n      interpreter        ", f);
        put_bytes(f, t->p->real + off, n);
        fputs("\n      before             ", f);
        put_bytes(f, t->p->old + off, n);
        fputc('\n', f);
    }
}

/* Bytes that no operand covers. */
static void put_strays(FILE *f, const struct ver_mem *m)
{
    for (unsigned k = 0; k < m->n_slots; k++) {
        const struct ver_page *p = m->slot[k].p;

        for (unsigned off = 0; off < PAGE_SIZE; off++)
            if ((p->lines >> off / VER_LINE & 1) && !ver_mem_written(m, p, off) && p->shadow[off] != p->old[off])
                fprintf(f, "    [%016" PRIx64 "] changed by the translator only: %02x, was %02x\n",
                        m->slot[k].page + off, p->shadow[off], p->old[off]);
    }
}

static void put_before(FILE *f, const struct xl_verify *v)
{
    const struct cpu_state *c = &v->before;
    static const uint8_t zero[sizeof(c->fpu.vec[0])];

    for (unsigned k = 0; k < 16; k++)
        fprintf(f, "%s%-3s %016" PRIx64 "%s", k % 4 ? "  " : "    ", gpr_name[k], c->gpr[k], k % 4 == 3 ? "\n" : "");
    fputs("    rflags ", f);
    put_flags(f, c->rflags);
    fprintf(f, "  cpl %u  cr0 %#" PRIx64 "  cr2 %#" PRIx64 "  cr3 %#" PRIx64 "  cr4 %#" PRIx64 "\n", c->cpl, c->cr0,
            c->cr2, c->cr3, c->cr4);
    for (unsigned k = 0; k < ARRAY_LEN(seg_name); k++)
        fprintf(f, "    %s %04x base %016" PRIx64 " limit %08x attr %05x\n", seg_name[k], c->seg[k].sel, c->seg[k].base,
                c->seg[k].limit, c->seg[k].attr);
    fprintf(f, "    mxcsr %04x  fcw %04x  fsw %04x  ftw %02x\n", c->fpu.mxcsr, c->fpu.fcw, c->fpu.fsw, c->fpu.ftw);
    for (unsigned k = 0; k < 8; k++)
        if (memcmp(c->fpu.st[k], zero, 10) != 0) {
            fprintf(f, "    st%u ", k);
            put_wide(f, c->fpu.st[k], 10);
            fputc('\n', f);
        }
    for (unsigned k = 0; k < VER_VECS; k++)
        if (memcmp(c->fpu.vec[k], zero, 32) != 0) {
            fprintf(f, "    ymm%-2u ", k);
            put_wide(f, c->fpu.vec[k], 32);
            fputc('\n', f);
        }
}

static void put_operands(FILE *f, const struct ver_mem *m)
{
    for (unsigned k = 0; k < m->n_touches; k++) {
        const struct ver_touch *t = &m->touch[k];

        fprintf(f, "    operand of %u: [%016" PRIx64 "] %u bytes,%s%s", t->insn + 1, t->lin, t->len,
                t->read ? " read" : "", t->write ? " written" : "");
        if (t->len <= VER_OPERAND) {
            fputs(", was ", f);
            put_bytes(f, t->p->old + ver_off(t), t->len);
        }
        fputc('\n', f);
    }
}

static void put_insn(FILE *f, const struct vi *i, uint64_t rip)
{
    ZydisDisassembledInstruction d;
    int n = fprintf(f, "  %016" PRIx64 "  ", rip);

    for (unsigned k = 0; k < i->len; k++)
        n += fprintf(f, "%02x ", i->bytes[k]);
    fprintf(f, "%*s", n < 48 ? 48 - n : 1, "");
    if (ZYAN_SUCCESS(ZydisDisassembleIntel(i->m64 ? ZYDIS_MACHINE_MODE_LONG_64 : ZYDIS_MACHINE_MODE_LEGACY_32, rip,
                                           i->bytes, i->len, &d)))
        fputs(d.text, f);
    fputc('\n', f);
}

static void put_insns(FILE *f, const struct xl_verify *v)
{
    unsigned n = v->n + (v->n < v->b->n && v->end != END_PATH);

    for (unsigned k = 0; k < n; k++)
        put_insn(f, &v->b->i[k], v->before.rip + v->b->i[k].off - v->b->i[0].off);
    if (n > 1)
        fputs("  They are wrong only together, not one by one.\n", f);
}

static const char *const way[] = {
    [X_LINK] = "a direct branch",
    [X_LOOKUP] = "a branch that looks up its target",
    [X_STEP] = "a call of the interpreter",
    [X_MISS] = "a TLB miss",
    [X_GROUP] = "a TLB miss of a group",
    [X_X87] = "a load of x87 state",
    [X_FAST] = "a call",
    [X_GATHER] = "a gather",
    [X_PAUSE] = "PAUSE",
    [X_ABORT] = "an aborted entry",
    [X_FAULT] = "a host fault",
    [X_WIN] = "a host fault with windows",
    [X_KICK] = "a kick",
};

char *ver_report(struct xlate *x, const struct cpu_state *b, const struct ver_open *open, const char *what)
{
    const struct xl_verify *v = x->verify;
    char *text = NULL;
    size_t len = 0;
    FILE *f = open_memstream(&text, &len);

    if (!f)
        return NULL;
    fprintf(f, "gazda: vCPU %u: verify: at %#" PRIx64 " the translator %s\n", x->v->id, v->before.rip,
            what ? what : "differs from the interpreter");
    put_insns(f, v);
    fprintf(f, "  The translator left the block by %s.\n", way[v->left_by]);
    fprintf(f, "  %-22s %20s  %20s\n", "difference", "translator", "interpreter");
    put_state_diff(f, &v->after, b, open);
    put_memory_diff(f, &v->mem);
    put_strays(f, &v->mem);
    for (unsigned k = 0; k < ARRAY_LEN(v->faults); k++)
        if (x->inner.stats.faults[k] != v->faults[k])
            fprintf(f, "    the interpreter has raised exception %u\n", k);
    if (v->end == END_LEFT)
        fprintf(f, "    the interpreter has left with exit %d\n", x->inner.exit.kind);
    fputs("  before\n", f);
    put_before(f, v);
    put_operands(f, &v->mem);
    fclose(f);
    return text;
}

void ver_fatal(struct xlate *x, char *text)
{
    FILE *out = x->v->tuning.report ? x->v->tuning.report : stderr;
    struct vcpu_exit *e = &x->v->exit;
    const char *line = text ? strstr(text, "verify:") : NULL;

    if (text)
        fwrite(text, 1, strlen(text), out);
    fflush(out);
    if (!line)
        line = "verify: the translator differs from the interpreter; no memory to tell how";
    e->kind = EXIT_FATAL;
    snprintf(e->text, sizeof(e->text), "%.*s", (int)strcspn(line, "\n"), line);
    free(text);
}
