/* SPDX-License-Identifier: MIT */
/* Several processors on one memory: locked instructions lose nothing, code changed by another is seen. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>

#include "engine_tests.h"
#include "interp_machine.h"

#ifdef GAZDA_DEBUG
enum { CPUS = 4, ROUNDS = 3000, HANDOVERS = 80 };
#else
enum { CPUS = 4, ROUNDS = 10000, HANDOVERS = 250 };
#endif

struct smp {
    struct im *cpu[CPUS];
};

static void *run_one(void *arg)
{
    struct im *t = arg;

    while (im_run(t) == EXIT_PAUSE)
        sched_yield();
    return NULL;
}

/* All processors run the code at IM_CODE with rbx = addr, rcx = rounds, each on a stack of its own. */
static void run_all(struct smp *s, const char *code, size_t len, uint64_t addr, unsigned rounds)
{
    pthread_t th[CPUS];

    im_load(s->cpu[0], IM_CODE, code, len);
    for (unsigned k = 0; k < CPUS; k++) {
        struct cpu_state *c = im_edit(s->cpu[k]);

        c->rip = IM_CODE;
        c->gpr[X86_RBX] = addr;
        c->gpr[X86_RCX] = rounds;
        c->gpr[X86_RSP] = IM_STACK + 0x1000 * k;
        im_done(s->cpu[k]);
    }
    for (unsigned k = 0; k < CPUS; k++)
        pthread_create(&th[k], NULL, run_one, s->cpu[k]);
    for (unsigned k = 0; k < CPUS; k++)
        pthread_join(th[k], NULL);
    for (unsigned k = 0; k < CPUS; k++) {
        assert_int_equal(s->cpu[k]->v.exit.kind, EXIT_HLT);
        assert_int_equal(im_vector(s->cpu[k]), -1);
    }
}
#define RUN_ALL(s, bytes, addr) run_all((s), (bytes), sizeof(bytes) - 1, (addr), ROUNDS)

static int set_up(void **state)
{
    struct smp *s = calloc(1, sizeof(*s));

    for (unsigned k = 0; k < CPUS; k++)
        s->cpu[k] = im_new_smp(*state, k ? s->cpu[0]->v.mem : NULL, CPUS);
    *state = s;
    return 0;
}
static int tear_down(void **state)
{
    struct smp *s = *state;

    for (unsigned k = CPUS - 1; k > 0; k--)
        im_free_on(s->cpu[k]);
    im_free(s->cpu[0]);
    free(s);
    return 0;
}

/* lock inc qword [rbx]; dec rcx; jnz; hlt -- inside a line, over two lines, over two pages */
static void test_lock_inc(void **state)
{
    static const gva_t at[] = { IM_DATA + 0x100, IM_DATA + 0x13c, IM_DATA + 0xffd };

    for (unsigned k = 0; k < ARRAY_LEN(at); k++) {
        RUN_ALL(*state, "\xf0\x48\xff\x03\x48\xff\xc9\x75\xf7\xf4", at[k]);
        assert_int_equal(im_get64(((struct smp *)*state)->cpu[0], at[k]), CPUS * ROUNDS);
    }
}

static void test_xadd(void **state)
{
    /* mov eax, 3; lock xadd [rbx], eax; dec rcx; jnz; hlt */
    RUN_ALL(*state, "\xb8\x03\0\0\0\xf0\x0f\xc1\x03\x48\xff\xc9\x75\xf2\xf4", IM_DATA);
    assert_int_equal(im_get64(((struct smp *)*state)->cpu[0], IM_DATA), 3 * CPUS * ROUNDS);
}

static void test_cmpxchg16b(void **state)
{
    /*
     * mov rsi, rbx; l: mov rax, [rsi]; mov rdx, [rsi+8]; r: push rcx; lea rbx, [rax+1]; lea rcx, [rdx+2];
     * lock cmpxchg16b [rsi]; pop rcx; jnz r; dec rcx; jnz l; hlt
     */
    RUN_ALL(*state,
            "\x48\x89\xde\x48\x8b\x06\x48\x8b\x56\x08\x51\x48\x8d\x58\x01\x48\x8d\x4a\x02\xf0\x48\x0f\xc7\x0e\x59\x75"
            "\xef\x48\xff\xc9\x75\xe3\xf4",
            IM_DATA);
    assert_int_equal(im_get64(((struct smp *)*state)->cpu[0], IM_DATA), CPUS * ROUNDS);
    assert_int_equal(im_get64(((struct smp *)*state)->cpu[0], IM_DATA + 8), 2 * CPUS * ROUNDS);
}

/* A ticket lock around a plain increment; few rounds, for every hand-over waits for one certain thread. */
static void test_ticket_lock(void **state)
{
    /*
     * l: mov eax, 1; lock xadd [rbx], eax; w: cmp eax, [rbx+4]; je g; pause; jmp w;
     * g: inc qword [rbx+8]; inc dword [rbx+4]; dec rcx; jnz l; hlt
     */
    static const char code[] =
        "\xb8\x01\0\0\0\xf0\x0f\xc1\x03\x3b\x43\x04\x74\x04\xf3\x90\xeb\xf7\x48\xff\x43\x08\xff\x43\x04\x48\xff\xc9"
        "\x75\xe2\xf4";

    run_all(*state, code, sizeof(code) - 1, IM_DATA, HANDOVERS);
    assert_int_equal(im_get64(((struct smp *)*state)->cpu[0], IM_DATA + 8), CPUS * HANDOVERS);
}

/*
 * Cross-modifying code: processor 0 rewrites the immediate in a function and then raises a flag; the others, once they
 * see the flag, must run the new function. One processor per role; the dance goes on for many rounds. The reader
 * does not serialize, as the SDM wants it to: that this works too is interp's promise, not the contract's.
 */
static void test_cross_modified(void **state)
{
    struct smp *s = *state;
    const uint64_t fn = IM_CODE + 0x2040, flag = IM_DATA, ack = IM_DATA + 64;
    pthread_t th[2];
    /* writer: l: mov [rdi+1], ecx; mov [rsi], ecx; w: cmp [rdx], ecx; jne w; dec ecx; jnz l; hlt */
    static const char writer[] = "\x89\x4f\x01\x89\x0e\x39\x0a\x75\xfc\xff\xc9\x75\xf3\xf4";
    /* reader: w: cmp [rsi], ecx; jne w; call rdi; cmp eax, ecx; jne bad;
     * mov [rdx], ecx; dec ecx; jnz w; hlt; bad: ud2 */
    static const char reader[] = "\x39\x0e\x75\xfc\xff\xd7\x39\xc8\x75\x07\x89\x0a\xff\xc9\x75\xf0\xf4\x0f\x0b";

    im_load(s->cpu[0], fn, "\xb8\0\0\0\0\xc3", 6);
    im_load(s->cpu[0], IM_CODE, writer, sizeof(writer) - 1);
    im_load(s->cpu[0], IM_CODE + 0x1000, reader, sizeof(reader) - 1);
    for (unsigned k = 0; k < 2; k++) {
        struct cpu_state *c = im_edit(s->cpu[k]);

        c->rip = IM_CODE + 0x1000 * k;
        c->gpr[X86_RCX] = 4 * HANDOVERS;
        c->gpr[X86_RDI] = fn;
        c->gpr[X86_RSI] = flag;
        c->gpr[X86_RDX] = ack;
        c->gpr[X86_RSP] = IM_STACK + 0x1000 * k;
        im_done(s->cpu[k]);
    }
    for (unsigned k = 0; k < 2; k++)
        pthread_create(&th[k], NULL, run_one, s->cpu[k]);
    for (unsigned k = 0; k < 2; k++)
        pthread_join(th[k], NULL);
    for (unsigned k = 0; k < 2; k++) {
        assert_int_equal(s->cpu[k]->v.exit.kind, EXIT_HLT);
        assert_int_equal(im_vector(s->cpu[k]), -1);
        assert_int_equal(s->cpu[k]->c->gpr[X86_RCX], 0);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_lock_inc),
        TEST(test_xadd),
        TEST(test_cmpxchg16b),
        TEST(test_ticket_lock),
        { "test_cross_modified", test_cross_modified, set_up, tear_down, (void *)&engine_interp },
    };
    return ENGINE_TESTS_RUN("interp_smp", tests);
}
