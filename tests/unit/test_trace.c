/* SPDX-License-Identifier: MIT */
/* What the translator tells people: lines about blocks, events and what runs, and symbols for perf. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/mman.h>
#include <unistd.h>

#include "interp_machine.h"

/* Streams that the next processor gets; tuning is read when it is made. */
static struct engine_tuning tuning;

static int traced_create(struct vcpu *v)
{
    v->tuning = tuning;
    return engine_translate.create(v);
}

struct tr {
    struct im *t;
    FILE *trace, *map;
    char *text;
    size_t len;
};

static void tr_up(struct tr *r, bool exec)
{
    struct engine_ops ops = engine_translate;

    *r = (struct tr){ 0 };
    r->trace = open_memstream(&r->text, &r->len);
    r->map = fdopen(memfd_create("map", MFD_CLOEXEC), "a+");
    assert_non_null(r->map);
    tuning = (struct engine_tuning){ .trace = r->trace, .perf_map = r->map, .trace_asm = !exec, .trace_exec = exec };
    ops.create = traced_create;
    r->t = im_new(&ops);
    r->t->v.ops = &engine_translate;
}

static void tr_down(struct tr *r)
{
    im_free(r->t);
    fclose(r->trace);
    fclose(r->map);
    free(r->text);
}

/* mov ecx, 3; loop: dec ecx; jnz loop; hlt */
#define LOOP "\xb9\x03\0\0\0\xff\xc9\x75\xfc\xf4"

static void loop(struct tr *r)
{
    assert_int_equal(IM_EXEC(r->t, LOOP), EXIT_HLT);
    fflush(r->trace);
}

static unsigned count(const char *text, const char *what)
{
    unsigned n = 0;

    for (const char *p = text; (p = strstr(p, what)) != NULL; p++)
        n++;
    return n;
}

static void test_blocks(void **state)
{
    struct tr r;

    (void)state;
    tr_up(&r, false);
    loop(&r);
    assert_non_null(strstr(r.text, "block vcpu=0 rip=0x100000 gpa=0x100000 kind=64,kernel-ac,"));
    assert_non_null(strstr(r.text, " insns=4 bytes=10 host=0x"));
    assert_non_null(strstr(r.text, "\n    0000000000100005  ff c9                             dec ecx\n        0000"));
    assert_non_null(strstr(r.text, "\n    ways out\n"));
    assert_int_equal(count(r.text, "block "), 2); /* the second one begins at DEC */
    assert_int_equal(count(r.text, "exec "), 0);
    loop(&r); /* the code is loaded, and so written, once more */
    assert_non_null(strstr(r.text, "drop vcpu=0 gpa=0x100000 blocks="));
    tr_down(&r);
}

/* Every time, though blocks would lead to each other. */
static void test_exec(void **state)
{
    struct tr r;

    (void)state;
    tr_up(&r, true);
    loop(&r);
    assert_int_equal(count(r.text, "exec vcpu=0 rip=0x100000\n"), 1);
    assert_int_equal(count(r.text, "exec vcpu=0 rip=0x100005\n"), 2);
    assert_int_equal(count(r.text, "step vcpu=0 rip=0x100009\n"), 1);
    tr_down(&r);
}

static unsigned lines(struct tr *r)
{
    unsigned n = 0;
    int c;

    fflush(r->map);
    rewind(r->map);
    while ((c = fgetc(r->map)) != EOF) {
        assert_int_not_equal(c, 0);
        n += c == '\n';
    }
    fseek(r->map, 0, SEEK_END);
    return n;
}

static void test_perf_map(void **state)
{
    char line[100];
    struct tr r;

    (void)state;
    tr_up(&r, false);
    loop(&r);
    assert_int_equal(lines(&r), 6); /* two of the stubs, and for each block its code and its ways out */
    rewind(r.map);
    for (unsigned k = 0; k < 3; k++)
        assert_non_null(fgets(line, sizeof(line), r.map));
    assert_non_null(strstr(line, " guest-kernel:100000\n"));
    fseek(r.map, 0, SEEK_END);
    /* A page goes away: all code is dropped and its place used again. */
    im_put64(r.t, IM_DATA, 1);
    mem_zero(r.t->v.mem, IM_DATA & PAGE_MASK, PAGE_SIZE);
    loop(&r);
    assert_int_equal(lines(&r), 6);
    assert_int_equal(count(r.text, "block "), 4);
    assert_non_null(strstr(r.text, "flush vcpu=0 blocks=2\n"));
    tr_down(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_exec),
        cmocka_unit_test(test_perf_map),
    };
    return cmocka_run_group_tests_name("trace", tests, NULL, NULL);
}
