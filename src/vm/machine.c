/* SPDX-License-Identifier: MIT */
/*
 * The machine is built here: every device it has is one call in build_devices. To add a device, write its file in
 * src/dev or src/virtio and one function here that makes it, maps it on the bus and lists it (own) for reset and free.
 */
#include "vm/machine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#include "dev/acpi_pm.h"
#include "dev/i8042.h"
#include "dev/ioapic.h"
#include "dev/pic.h"
#include "dev/pit.h"
#include "dev/rtc.h"
#include "dev/uart.h"
#include "host/chardev.h"
#include "mem/mem.h"
#include "vm/internal.h"
#include "vm/virtio.h"

enum { COM1_PORT = 0x3f8, COM1_IRQ = 4, KBD_IRQ = 1, AUX_IRQ = 12, RTC_IRQ = 8 };

/* ---- what devices and vCPUs tell the machine ---- */

static void on_poweroff(void *arg)
{
    machine_report(arg, EV_POWEROFF, 0, NULL);
}
static void on_reset(void *arg)
{
    machine_report(arg, EV_RESET, 0, NULL);
}
static void on_debug_exit(void *arg, uint32_t value)
{
    machine_report(arg, EV_DEBUG_EXIT, value, NULL);
}

static void on_quit(void *arg)
{
    machine_report(arg, EV_QUIT, 0, NULL);
}

static bool tell_debugger(struct machine *m, unsigned cpu, const struct vcpu_exit *x)
{
    lock_take(&m->lock);
    void (*fn)(void *, unsigned, const struct vcpu_exit *) = m->debug_fn;
    void *arg = m->debug_arg;
    lock_drop(&m->lock);
    if (fn)
        fn(arg, cpu, x);
    return fn != NULL;
}

static void on_shutdown(void *arg, unsigned cpu, const char *text)
{
    struct machine *m = arg;
    char line[200];
    struct vcpu_exit x = { .kind = EXIT_SHUTDOWN };
    snprintf(x.text, sizeof(x.text), "%s", text);
    if (tell_debugger(m, cpu, &x))
        return;
    snprintf(line, sizeof(line), "vCPU %u: %s", cpu, text);
    machine_report(m, EV_CRASH, 0, line);
}

static void on_fatal(void *arg, unsigned cpu, const char *text)
{
    char line[200];
    snprintf(line, sizeof(line), "vCPU %u: %s", cpu, text);
    machine_report(arg, EV_FATAL, 0, line);
}

static void on_debug(void *arg, unsigned cpu, const struct vcpu_exit *x)
{
    tell_debugger(arg, cpu, x);
}

/* A fixed interrupt or NMI to the APIC ids base + i whose bit i is set in the 128-bit map; returns how many. */
static int64_t send_ipi(struct machine *m, const uint64_t map[2], uint32_t base, uint32_t icr)
{
    enum { FIXED = 0, NMI = 4 };
    uint32_t mode = icr >> 8 & 7;
    int64_t count = 0;
    if (mode != FIXED && mode != NMI)
        return -KVM_EINVAL;
    for (unsigned i = 0; i < m->cfg.cpus; i++) {
        uint64_t bit = (uint64_t)i - base;
        if (bit >= 128 || !(map[bit / 64] >> (bit & 63) & 1))
            continue;
        lapic_bus_msi(m->lapic_bus, 0xfee00000UL | (uint64_t)i << 12, icr & 0x7ff);
        count++;
    }
    return count;
}

static int64_t on_hypercall(void *arg, unsigned cpu, uint64_t nr, const uint64_t a[4])
{
    struct machine *m = arg;
    (void)cpu;
    if (nr == KVM_HC_SEND_IPI)
        return send_ipi(m, a, (uint32_t)a[2], (uint32_t)a[3]);
    if (nr != KVM_HC_KICK_CPU)
        return -KVM_ENOSYS;
    if (a[1] < m->cfg.cpus)
        vcpu_unhalt(m->cpu[a[1]]);
    return 0;
}

/* ---- clocks for devices ---- */

static int64_t now_realtime(void *arg)
{
    struct timespec ts;
    (void)arg;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

static uint64_t guest_tsc_now(void *vcpu)
{
    return __rdtsc() + vcpu_of(vcpu)->cpu->tsc_offset;
}

static uint64_t guest_tsc_to_ns(void *vcpu, uint64_t tsc)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    uint64_t now = (uint64_t)ts.tv_sec * 1000000000UL + (uint64_t)ts.tv_nsec;
    uint64_t cur = guest_tsc_now(vcpu);
    if (tsc <= cur)
        return now;
    unsigned __int128 ns = (unsigned __int128)(tsc - cur) * 1000000 / vcpu_of(vcpu)->model->tsc_khz + 1;
    uint64_t room = (UINT64_MAX >> 1) - now;
    return now + (ns > room ? room : (uint64_t)ns);
}

/* ---- devices ---- */

/* Lists a device for reset and free. dev may be NULL after a failed allocation: -ENOMEM. */
static int own(struct machine *m, const struct dev_ops *ops, void *dev, void (*free_fn)(void *dev), struct err *e)
{
    if (!dev)
        return err_set(e, ENOMEM, "out of memory for %s", ops->name);
    if (m->n_dev == DEVICES_MAX)
        return err_set(e, ENOSPC, "more than %d devices", DEVICES_MAX);
    m->dev[m->n_dev++] = (struct machine_device){ .ops = ops, .dev = dev, .free = free_fn };
    return 0;
}

/* Maps ports; sizes are BUS_* bits. */
struct ports {
    uint16_t base, len;
    unsigned sizes;
    const struct dev_ops *ops;
    void *dev;
};

static int map_ports(struct machine *m, const struct ports *p, unsigned n, struct err *e)
{
    int r = 0;
    for (unsigned i = 0; i < n && r == 0; i++)
        r = bus_map(m->bus, BUS_PIO, p[i].base, p[i].len, p[i].sizes, p[i].ops, p[i].dev, e);
    return r;
}

static int build_irqchips(struct machine *m, struct err *e)
{
    const struct irq_line lint0 = { .set = lapic_bus_lint, .arg = m->lapic_bus, .pin = 0 };
    const struct irq_msi_sink sink = { .send = lapic_bus_msi, .arg = m->lapic_bus };
    m->pic = pic_new(&lint0);
    int r = own(m, &pic_master_ops, m->pic, (void (*)(void *))pic_free, e);
    if (r < 0)
        return r;
    m->ioapic = ioapic_new(&sink, (uint8_t)m->cfg.cpus);
    r = own(m, &ioapic_ops, m->ioapic, (void (*)(void *))ioapic_free, e);
    if (r < 0)
        return r;
    m->router = (struct irq_router){ .pic = m->pic, .ioapic = m->ioapic };
    const struct ports p[] = {
        { PIC_MASTER_PORT, PIC_LEN, BUS_1, &pic_master_ops, m->pic },
        { PIC_SLAVE_PORT, PIC_LEN, BUS_1, &pic_slave_ops, m->pic },
        { PIC_ELCR_PORT, PIC_LEN, BUS_1, &pic_elcr_ops, m->pic },
    };
    r = map_ports(m, p, ARRAY_LEN(p), e);
    return r < 0 ? r : bus_map(m->bus, BUS_MMIO, IOAPIC_BASE, IOAPIC_LEN, BUS_4, &ioapic_ops, m->ioapic, e);
}

static int build_clocks(struct machine *m, struct err *e)
{
    struct timer_svc *ts = loop_timers(m->loop);
    const struct irq_line irq0 = irq_router_line(&m->router, 0);
    const struct rtc_cfg rc = {
        .timers = ts,
        .irq = irq_router_line(&m->router, RTC_IRQ),
        .now_realtime = now_realtime,
    };
    struct pit *pit = pit_new(ts, &irq0);
    int r = own(m, &pit_ops, pit, (void (*)(void *))pit_free, e);
    if (r < 0)
        return r;
    struct rtc *rtc = rtc_new(&rc);
    r = own(m, &rtc_ops, rtc, (void (*)(void *))rtc_free, e);
    if (r < 0)
        return r;
    rtc_set_memory(rtc, mem_low_end(m->mem), mem_high_end(m->mem) - MEM_GAP_END);
    const struct ports p[] = {
        { PIT_PORT, PIT_LEN, BUS_1, &pit_ops, pit },
        { PIT_PORT61, 1, BUS_1, &pit_port61_ops, pit },
        { RTC_PORT, RTC_LEN, BUS_1, &rtc_ops, rtc },
    };
    return map_ports(m, p, ARRAY_LEN(p), e);
}

static int build_acpi(struct machine *m, struct err *e)
{
    const struct acpi_pm_cfg cfg = {
        .timers = loop_timers(m->loop),
        .sci = irq_router_line(&m->router, ACPI_SCI_IRQ),
        .poweroff = on_poweroff,
        .reset = on_reset,
        .arg = m,
    };
    m->acpi = acpi_pm_new(&cfg);
    int r = own(m, &acpi_pm_ops, m->acpi, (void (*)(void *))acpi_pm_free, e);
    if (r < 0)
        return r;
    const struct ports p[] = {
        { ACPI_PM_BASE, ACPI_PM_LEN, BUS_1 | BUS_2 | BUS_4, &acpi_pm_ops, m->acpi },
        { ACPI_GPE0, ACPI_GPE0_LEN, BUS_1 | BUS_2 | BUS_4, &acpi_gpe_ops, m->acpi },
        { ACPI_CF8_PORT, ACPI_CF8_LEN, BUS_1 | BUS_2 | BUS_4, &acpi_reset_ops, m->acpi },
    };
    return map_ports(m, p, ARRAY_LEN(p), e);
}

static int build_legacy_io(struct machine *m, struct err *e)
{
    const struct i8042_cfg kc = {
        .kbd = irq_router_line(&m->router, KBD_IRQ),
        .aux = irq_router_line(&m->router, AUX_IRQ),
        .reset = on_reset,
        .arg = m,
    };
    const struct uart_cfg uc = {
        .timers = loop_timers(m->loop),
        .irq = irq_router_line(&m->router, COM1_IRQ),
        .ch = m->serial,
    };
    struct i8042 *kbd = i8042_new(&kc);
    int r = own(m, &i8042_data_ops, kbd, (void (*)(void *))i8042_free, e);
    if (r < 0)
        return r;
    m->uart = uart_new(&uc);
    r = own(m, &uart_ops, m->uart, (void (*)(void *))uart_free, e);
    if (r < 0)
        return r;
    m->dbgexit = (struct debug_exit){ .exit = on_debug_exit, .arg = m };
    const struct ports p[] = {
        { I8042_DATA_PORT, 1, BUS_1, &i8042_data_ops, kbd },
        { I8042_CMD_PORT, 1, BUS_1, &i8042_cmd_ops, kbd },
        { I8042_PORT_A, 1, BUS_1, &i8042_port_a_ops, kbd },
        { COM1_PORT, UART_LEN, BUS_1, &uart_ops, m->uart },
        { POST_PORT, 1, BUS_1, &post_ops, &m->post },
        { DEBUG_EXIT_PORT, DEBUG_EXIT_LEN, BUS_1 | BUS_2 | BUS_4, &debug_exit_ops, &m->dbgexit }, /* last: optional */
    };
    return map_ports(m, p, ARRAY_LEN(p) - (m->cfg.debug_exit ? 0 : 1), e);
}

static int build_devices(struct machine *m, struct err *e)
{
    int r = build_irqchips(m, e);
    if (r == 0)
        r = build_clocks(m, e);
    if (r == 0)
        r = build_acpi(m, e);
    if (r == 0)
        r = build_legacy_io(m, e);
    if (r == 0)
        r = vm_build_virtio(m, e);
    return r;
}

/* ---- vCPUs ---- */

static bool lapic_mmio(void *lapic, gpa_t gpa, uint64_t *data, unsigned len, bool write)
{
    if (!lapic_mmio_hit(lapic, gpa))
        return false;
    if (write) {
        lapic_mmio_write(lapic, gpa & (PAGE_SIZE - 1), data, len);
    } else {
        *data = 0;
        lapic_mmio_read(lapic, gpa & (PAGE_SIZE - 1), data, len);
    }
    return true;
}

static int extint_ack(void *arg)
{
    return pic_ack(((struct machine *)arg)->pic);
}
static void eoi_broadcast(void *arg, uint8_t vector)
{
    ioapic_eoi(((struct machine *)arg)->ioapic, vector);
}

static int build_cpu(struct machine *m, unsigned i, struct err *e)
{
    const struct vcpu_config vc = {
        .id = i,
        .engine = m->cfg.engine,
        .mem = m->mem,
        .bus = m->bus,
        .model = &m->model,
        .tuning = m->cfg.tuning,
        .irq = &m->irq_ctl[i],
        .lapic_mmio = lapic_mmio,
        .lapic_init = (void (*)(void *))lapic_init_reset,
        .tsc_changed = (void (*)(void *))lapic_tsc_changed,
        .clock = &m->clock,
        .events = { .shutdown = on_shutdown,
                    .fatal = on_fatal,
                    .debug = on_debug,
                    .hypercall = on_hypercall,
                    .arg = m },
    };
    m->cpu[i] = vcpu_new(&vc, e);
    if (!m->cpu[i])
        return -EIO;
    const struct lapic_cfg lc = {
        .id = (uint8_t)i,
        .bsp = i == 0,
        .x2apic = m->model.x2apic,
        .tsc_deadline = m->model.feat_1_ecx & (1U << 24),
        .phys_bits = (uint8_t)m->model.phys_bits,
        .cpu = vcpu_pins(m->cpu[i]),
        .timers = loop_timers(m->loop),
        .tsc_now = guest_tsc_now,
        .tsc_to_ns = guest_tsc_to_ns,
    };
    m->lapic[i] = lapic_new(m->lapic_bus, &lc);
    int r = own(m, &lapic_dev_ops, m->lapic[i], NULL, e);
    if (r == 0)
        lapic_get_ctl(m->lapic[i], &m->irq_ctl[i]);
    return r;
}

static int build_cpus(struct machine *m, struct err *e)
{
    const struct lapic_bus_cfg bc = { .extint_ack = extint_ack, .extint_arg = m, .eoi = eoi_broadcast, .eoi_arg = m };
    int r = 0;
    m->lapic_bus = lapic_bus_new(&bc);
    if (!m->lapic_bus)
        return err_set(e, ENOMEM, "out of memory for the LAPICs");
    for (unsigned i = 0; i < m->cfg.cpus && r == 0; i++)
        r = build_cpu(m, i, e);
    return r;
}

/* ---- life ---- */

int machine_load_guest(struct machine *m, struct err *e)
{
    const struct machine_guest g = {
        .mem = m->mem,
        .bsp = vcpu_of(m->cpu[0])->cpu,
        .cpus = m->cfg.cpus,
        .virtio = m->virtio,
        .n_virtio = m->n_virtio,
        .has_disk = m->cfg.n_disks > 0,
        .disk_read_only = m->cfg.disk[0].read_only,
    };
    int r = m->cfg.load(m->cfg.load_arg, &g, e);
    if (r)
        return r;
    vcpu_changed(m->cpu[0]);
    /* Firmware gives all processors the same memory types; kernels check. */
    for (unsigned i = 1; i < m->cfg.cpus; i++)
        vcpu_of(m->cpu[i])->cpu->msr.mtrr_def_type = g.bsp->msr.mtrr_def_type;
    return 0;
}

static int check_config(const struct machine_config *cfg, struct err *e)
{
    if (cfg->cpus < 1 || cfg->cpus > MACHINE_CPUS_MAX)
        return err_set(e, EINVAL, "%u vCPUs: it must be 1 to %d", cfg->cpus, MACHINE_CPUS_MAX);
    if (cfg->n_disks > MACHINE_DISKS_MAX)
        return err_set(e, EINVAL, "%u disks: at most %d", cfg->n_disks, MACHINE_DISKS_MAX);
    return 0;
}

struct machine *machine_new(const struct machine_config *cfg, struct err *e)
{
    if (check_config(cfg, e) < 0)
        return NULL;
    struct machine *m = calloc(1, sizeof(*m));
    if (!m) {
        err_set(e, ENOMEM, "out of memory");
        return NULL;
    }
    m->cfg = *cfg;
    m->cfg.tuning.cpus = cfg->cpus;
    m->pauses = 1;
    snprintf(m->control_name, sizeof(m->control_name), "%s", cfg->name ? cfg->name : "gazda");
    lock_init(&m->lock, LOCK_MACHINE);
    pthread_cond_init(&m->cond, NULL);
    m->mem = mem_new(cfg->mem_bytes, e);
    if (!m->mem)
        goto undo;
    m->bus = bus_new();
    m->loop = loop_new();
    if (!m->bus || !m->loop) {
        err_set(e, ENOMEM, "cannot set up the event loop");
        goto undo;
    }
    if (vm_control_start(m, e) < 0)
        goto undo;
    uint32_t khz = pv_clock_host_khz();
    x86_model_host(&m->model, cfg->cpus, khz);
    pv_clock_init(&m->clock, khz);
    const struct chardev_env env = { .loop = m->loop, .quit = on_quit, .arg = m };
    m->serial = chardev_open(cfg->serial ? cfg->serial : "null", &env, e);
    if (!m->serial)
        goto undo;
    if (build_cpus(m, e) < 0 || build_devices(m, e) < 0 || machine_load_guest(m, e) < 0)
        goto undo;
    return m;

undo:
    machine_free(m);
    return NULL;
}

void machine_free(struct machine *m)
{
    if (!m)
        return;
    vm_control_stop(m);
    if (m->loop_started) {
        loop_stop(m->loop);
        pthread_join(m->loop_thread, NULL);
    }
    /* vCPUs first: they use everything else. */
    for (unsigned i = 0; i < m->cfg.cpus; i++)
        vcpu_free(m->cpu[i]);
    while (m->n_dev) {
        const struct machine_device *d = &m->dev[--m->n_dev];
        if (d->free)
            d->free(d->dev);
    }
    lapic_bus_free(m->lapic_bus);
    vm_free_virtio(m);
    chardev_free(m->serial);
    loop_free(m->loop);
    loop_free(m->control_loop);
    bus_free(m->bus);
    mem_free(m->mem);
    pthread_cond_destroy(&m->cond);
    lock_destroy(&m->lock);
    free(m);
}

bool machine_power_button(struct machine *m)
{
    return acpi_pm_power_button(m->acpi);
}

unsigned machine_cpu_count(const struct machine *m)
{
    return m->cfg.cpus;
}
struct vcpu *machine_vcpu(struct machine *m, unsigned cpu)
{
    return vcpu_of(m->cpu[cpu]);
}
struct mem *machine_mem(struct machine *m)
{
    return m->mem;
}
bool machine_vcpu_offline(const struct machine *m, unsigned cpu)
{
    return vcpu_is_waiting_sipi(m->cpu[cpu]);
}
void machine_vcpu_changed(struct machine *m, unsigned cpu)
{
    struct vcpu *v = vcpu_of(m->cpu[cpu]);
    v->ops->debug_changed(v);
    vcpu_changed(m->cpu[cpu]);
}
void machine_set_debugger(struct machine *m, void (*fn)(void *arg, unsigned cpu, const struct vcpu_exit *x), void *arg)
{
    lock_take(&m->lock);
    m->debug_fn = fn;
    m->debug_arg = arg;
    lock_drop(&m->lock);
}
