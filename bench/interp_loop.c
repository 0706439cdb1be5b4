/* SPDX-License-Identifier: MIT */
/*
 * Guest instructions a second of CPU time of the interpreter on flat 64-bit loops, without a machine around it.
 * Usage: interp_loop [seconds]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cpu/engine.h"
#include "mem/mem.h"

#define CODE 0x100000UL
#define STACK 0x300000UL

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Identity map of the first GiB with 2 MiB pages, 64-bit mode at CPL 0. */
static void set_up(struct vcpu *v)
{
    struct cpu_state *c = v->cpu;
    uint64_t pml4e = 0x2003, pdpte = 0x3003;

    mem_write(v->mem, 0x1000, &pml4e, 8);
    mem_write(v->mem, 0x2000, &pdpte, 8);
    for (uint64_t k = 0; k < 512; k++) {
        uint64_t pde = k << 21 | 0x83;
        mem_write(v->mem, 0x3000 + k * 8, &pde, 8);
    }
    v->ops->sync(v, SYNC_OUT);
    c->cr0 = X86_CR0_PE | X86_CR0_PG | X86_CR0_WP | X86_CR0_NE | X86_CR0_ET;
    c->cr4 = X86_CR4_PAE | X86_CR4_OSFXSR;
    c->cr3 = 0x1000;
    c->msr.efer = X86_EFER_LME | X86_EFER_LMA;
    c->seg[X86_CS] =
        (struct x86_seg){ .limit = ~0U, .sel = 8, .attr = 0xb | X86_SEG_S | X86_SEG_P | X86_SEG_L | X86_SEG_G };
    for (unsigned s = 0; s < X86_SREGS; s++)
        if (s != X86_CS && s != X86_SEG_NONE)
            c->seg[s] = (struct x86_seg){ .limit = ~0U,
                                          .sel = 16,
                                          .attr = 0x3 | X86_SEG_S | X86_SEG_P | X86_SEG_DB | X86_SEG_G };
    c->gpr[X86_RSP] = STACK;
    c->gpr[X86_RSI] = 0x400000;
    c->gpr[X86_RDI] = 0x500000;
    c->rip = CODE;
    c->rflags = 2;
    v->ops->sync(v, SYNC_IN);
}

struct loop {
    const char *name;
    const char *code; /* hex; runs rcx times, then HLT */
};

static const struct loop loops[] = {
    /* add rax, rbx; lea rdx, [rax+rcx*4]; xor rbx, rdx; shr rdx, 3; and rdx, 0xff; dec rcx; jnz */
    { "alu", "4801d8488d14884831d348c1ea034881e2ff00000048ffc975e6f4" },
    /* mov rax, [rsi+rdx*8]; add rax, rbx; mov [rdi+rdx*8], rax; inc edx; and edx, 0xff; sub rcx, 1; jnz */
    { "memory", "488b04d64801d8488904d7ffc281e2ff0000004883e90175e7f4" },
    /* call f; dec rcx; jnz; hlt; f: push rbx; mov rbx, rcx; pop rbx; ret */
    { "call", "e80600000048ffc975f6f4534889cb5bc3" },
    /* cmp, jcc taken and not: test cl, 1; jz +3; inc rax; cmp rax, 7; jb +3; sub rax, 7; dec rcx; jnz */
    { "branch", "f6c101740348ffc04883f80772044883e80748ffc975e9f4" },
};

static void load(struct vcpu *v, const char *hex)
{
    for (size_t k = 0; hex[2 * k]; k++) {
        char t[3] = { hex[2 * k], hex[2 * k + 1], 0 };
        uint8_t b = (uint8_t)strtoul(t, NULL, 16);
        mem_write(v->mem, CODE + k, &b, 1);
    }
}

int main(int argc, char **argv)
{
    double secs = argc > 1 ? atof(argv[1]) : 0.5;
    struct x86_model model = { .cpus = 1 };
    struct err e = { "" };
    struct mem *mem = mem_new(64UL << 20, &e);

    x86_model_host(&model, 1, 1000000);
    for (size_t k = 0; k < ARRAY_LEN(loops); k++) {
        struct vcpu v = { .ops = &engine_interp, .mem = mem, .model = &model };
        double start, t = 0;

        if (engine_interp.create(&v))
            return 1;
        set_up(&v);
        load(&v, loops[k].code);
        start = now();
        while (t < secs) {
            v.ops->sync(&v, SYNC_OUT);
            v.cpu->rip = CODE;
            v.cpu->gpr[X86_RCX] = 1000000;
            v.cpu->gpr[X86_RDX] = 0;
            v.ops->sync(&v, SYNC_IN);
            v.ops->run(&v, &v.exit);
            if (v.exit.kind != EXIT_HLT) {
                printf("%s: exit %d %s\n", loops[k].name, v.exit.kind, v.exit.text);
                return 1;
            }
            t = now() - start;
        }
        printf("%-8s %7.1f million instructions/s\n", loops[k].name, (double)v.stats.insns / t / 1e6);
        engine_interp.destroy(&v);
    }
    mem_free(mem);
    return 0;
}
