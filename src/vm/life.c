/* SPDX-License-Identifier: MIT */
/*
 * The machine's life: events, reset, pause. Devices and vCPUs only report; the thread in machine_run decides, since it
 * alone may wait for vCPUs to stop.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "mem/mem.h"
#include "vm/internal.h"

void machine_report(struct machine *m, enum machine_event ev, uint32_t value, const char *text)
{
    lock_take(&m->lock);
    /* The first event counts, but a guest that crashes in a loop must not keep the user from ending it. */
    if (m->event == EV_NONE || ev == EV_QUIT) {
        m->event = ev;
        m->event_value = value;
        snprintf(m->event_text, sizeof(m->event_text), "%s", text ? text : "");
        pthread_cond_broadcast(&m->cond);
    }
    lock_drop(&m->lock);
    /* No guest instruction after the one that ended the machine; waiting for it is machine_run's part. */
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        vcpu_pause(m->cpu[i]);
}

void machine_quit(struct machine *m, uint32_t value)
{
    machine_report(m, EV_QUIT, value, NULL);
}

static void wait_all_paused(struct machine *m)
{
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        vcpu_pause(m->cpu[i]);
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        vcpu_wait_paused(m->cpu[i]);
}

void machine_pause(struct machine *m)
{
    lock_take(&m->lock);
    m->pauses++;
    lock_drop(&m->lock);
    wait_all_paused(m);
}

void machine_resume(struct machine *m)
{
    lock_take(&m->lock);
    bool go = --m->pauses == 0 && m->event == EV_NONE;
    if (go)
        for (unsigned i = 0; i < m->cfg.cpus; i++)
            vcpu_resume(m->cpu[i]);
    lock_drop(&m->lock);
}

void machine_step(struct machine *m, unsigned cpu)
{
    vcpu_resume(m->cpu[cpu]);
}

static int reset(struct machine *m, struct err *e)
{
    machine_pause(m);
    for (unsigned i = 0; i < m->n_dev; i++)
        if (m->dev[i].ops->reset)
            m->dev[i].ops->reset(m->dev[i].dev);
    mem_reset(m->mem);
    pv_clock_init(&m->clock, m->clock.tsc_khz);
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        vcpu_reset(m->cpu[i]);
    int r = machine_load_guest(m, e);
    lock_take(&m->lock);
    if (m->event != EV_QUIT)
        m->event = EV_NONE;
    lock_drop(&m->lock);
    if (r == 0)
        machine_resume(m);
    return r;
}

/* Waits for an event; returns it without clearing it, so that later ones of the same round are dropped. */
static enum machine_event next_event(struct machine *m, struct machine_result *out)
{
    lock_take(&m->lock);
    while (m->event == EV_NONE)
        lock_wait(&m->lock, &m->cond, UINT64_MAX);
    enum machine_event ev = m->event;
    out->value = m->event_value;
    snprintf(out->text, sizeof(out->text), "%s", m->event_text);
    lock_drop(&m->lock);
    return ev;
}

static void *loop_main(void *arg)
{
    struct machine *m = arg;
    loop_run(m->loop);
    return NULL;
}

/* True: the machine goes on. */
static bool handle_event(struct machine *m, enum machine_event ev, struct machine_result *out)
{
    struct err e = { 0 };
    switch (ev) {
    case EV_CRASH:
        log_error("the guest crashed: %s", out->text);
        out->end = MACHINE_CRASH;
        break;
    case EV_RESET:
        out->end = MACHINE_REBOOT;
        break;
    case EV_POWEROFF:
        out->end = MACHINE_POWEROFF;
        return false;
    case EV_DEBUG_EXIT:
        out->end = MACHINE_DEBUG_EXIT;
        return false;
    case EV_QUIT:
        out->end = MACHINE_QUIT;
        return false;
    default:
        out->end = MACHINE_FATAL;
        return false;
    }
    if (m->cfg.no_reboot)
        return false;
    if (ev == EV_CRASH)
        log_error("restarting it");
    if (reset(m, &e) == 0)
        return true;
    out->end = MACHINE_FATAL;
    snprintf(out->text, sizeof(out->text), "cannot restart the guest: %.220s", e.text);
    return false;
}

void machine_run(struct machine *m, struct machine_result *out)
{
    *out = (struct machine_result){ .end = MACHINE_FATAL };
    int r = pthread_create(&m->loop_thread, NULL, loop_main, m);
    if (r != 0) {
        snprintf(out->text, sizeof(out->text), "cannot start the event loop's thread: %s", strerror(r));
        return;
    }
    pthread_setname_np(m->loop_thread, "loop");
    m->loop_started = true;
    machine_resume(m);
    while (handle_event(m, next_event(m, out), out))
        ;
    machine_pause(m);
}
