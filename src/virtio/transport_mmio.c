/* SPDX-License-Identifier: MIT */
/*
 * virtio over MMIO. Registers below 0x100 are 32-bit: other accesses read 0 and write nothing. Queue registers freeze
 * while the queue is ready; a reset, of the device or of the queue, undoes that.
 */
#include "virtio/transport_mmio.h"

#include <errno.h>
#include <string.h>

#include "state/state.h"
#include "virtio/virtio.h"

enum {
    R_MAGIC = 0x000,
    R_VERSION = 0x004,
    R_DEVICE_ID = 0x008,
    R_VENDOR_ID = 0x00c,
    R_DEVICE_FEATURES = 0x010,
    R_DEVICE_FEATURES_SEL = 0x014,
    R_DRIVER_FEATURES = 0x020,
    R_DRIVER_FEATURES_SEL = 0x024,
    R_QUEUE_SEL = 0x030,
    R_QUEUE_NUM_MAX = 0x034,
    R_QUEUE_NUM = 0x038,
    R_QUEUE_READY = 0x044,
    R_QUEUE_NOTIFY = 0x050,
    R_INTERRUPT_STATUS = 0x060,
    R_INTERRUPT_ACK = 0x064,
    R_STATUS = 0x070,
    R_QUEUE_DESC_LOW = 0x080,
    R_QUEUE_DESC_HIGH = 0x084,
    R_QUEUE_DRIVER_LOW = 0x090,
    R_QUEUE_DRIVER_HIGH = 0x094,
    R_QUEUE_DEVICE_LOW = 0x0a0,
    R_QUEUE_DEVICE_HIGH = 0x0a4,
    R_SHM_SEL = 0x0ac,
    R_SHM_LEN_LOW = 0x0b0,
    R_SHM_LEN_HIGH = 0x0b4,
    R_SHM_BASE_LOW = 0x0b8,
    R_SHM_BASE_HIGH = 0x0bc,
    R_QUEUE_RESET = 0x0c0,
    R_CONFIG_GENERATION = 0x0fc,
    R_CONFIG = 0x100,
};

enum { MAGIC = 0x74726976, VERSION = 2, VENDOR = 0x415a4147 /* "GAZA" */ };

static struct virtq *selected(struct virtio_dev *v)
{
    return v->sel_queue < v->n_queues ? &v->q[v->sel_queue] : NULL;
}

static uint32_t half(uint64_t x, uint32_t sel)
{
    return sel > 1 ? 0 : (uint32_t)(x >> (32 * sel));
}

static uint32_t reg_read(struct virtio_dev *v, uint64_t off)
{
    struct virtq *q = selected(v);
    switch (off) {
    case R_MAGIC:
        return MAGIC;
    case R_VERSION:
        return VERSION;
    case R_DEVICE_ID:
        return v->ops->id;
    case R_VENDOR_ID:
        return VENDOR;
    case R_DEVICE_FEATURES:
        return half(v->offered, v->sel_device);
    case R_QUEUE_NUM_MAX:
        return q ? q->max : 0;
    case R_QUEUE_READY:
        return q ? !virtq_reset_done(q) || q->ready : 0;
    case R_QUEUE_RESET:
        return q ? !virtq_reset_done(q) : 0;
    case R_INTERRUPT_STATUS:
        return v->isr;
    case R_STATUS:
        return v->status;
    case R_SHM_LEN_LOW:
    case R_SHM_LEN_HIGH:
    case R_SHM_BASE_LOW:
    case R_SHM_BASE_HIGH:
        return UINT32_MAX; /* there is no shared memory region */
    case R_CONFIG_GENERATION:
        return v->config_gen;
    default:
        return 0;
    }
}

static void set_half(uint64_t *x, bool high, uint32_t val)
{
    *x = high ? (*x & UINT32_MAX) | (uint64_t)val << 32 : (*x & ~(uint64_t)UINT32_MAX) | val;
}

static void queue_write(struct virtio_dev *v, struct virtq *q, uint64_t off, uint32_t val)
{
    if (off == R_QUEUE_READY && val == 0 && !(v->status & VIRTIO_DRIVER_OK)) {
        q->ready = false;
        return;
    }
    if ((off == R_QUEUE_READY && val == 0) ||
        (off == R_QUEUE_RESET && val == 1 && virtio_has(v, VIRTIO_F_RING_RESET))) {
        virtio_queue_reset(v, v->sel_queue);
        return;
    }
    if (!virtq_reset_done(q) || q->ready)
        return;
    switch (off) {
    case R_QUEUE_NUM:
        q->size = val > UINT16_MAX ? UINT16_MAX : (uint16_t)val; /* checked when the driver is ready */
        break;
    case R_QUEUE_READY:
        if (val == 1)
            virtio_queue_enable(v, v->sel_queue);
        break;
    case R_QUEUE_DESC_LOW:
    case R_QUEUE_DESC_HIGH:
        set_half(&q->desc, off == R_QUEUE_DESC_HIGH, val);
        break;
    case R_QUEUE_DRIVER_LOW:
    case R_QUEUE_DRIVER_HIGH:
        set_half(&q->driver, off == R_QUEUE_DRIVER_HIGH, val);
        break;
    case R_QUEUE_DEVICE_LOW:
    case R_QUEUE_DEVICE_HIGH:
        set_half(&q->device, off == R_QUEUE_DEVICE_HIGH, val);
        break;
    default:
        break;
    }
}

static void reg_write(struct virtio_dev *v, uint64_t off, uint32_t val)
{
    if (v->resetting)
        return;
    switch (off) {
    case R_DEVICE_FEATURES_SEL:
        v->sel_device = val;
        break;
    case R_DRIVER_FEATURES_SEL:
        v->sel_driver = val;
        break;
    case R_DRIVER_FEATURES:
        if (!(v->status & VIRTIO_FEATURES_OK) && v->sel_driver <= 1)
            set_half(&v->features, v->sel_driver == 1, val);
        break;
    case R_QUEUE_SEL:
        v->sel_queue = val;
        break;
    case R_QUEUE_NOTIFY:
        virtio_notify(v, val);
        break;
    case R_INTERRUPT_ACK:
        virtio_ack(v, (uint8_t)val);
        break;
    case R_STATUS:
        virtio_set_status(v, (uint8_t)val);
        break;
    case R_SHM_SEL:
        v->sel_shm = val;
        break;
    default:
        if (selected(v))
            queue_write(v, selected(v), off, val);
        break;
    }
}

static void mmio_read(void *dev, uint64_t off, void *buf, unsigned len)
{
    struct virtio_dev *v = dev;
    lock_take(&v->lock);
    if (off >= R_CONFIG) {
        virtio_config_read(v, off - R_CONFIG, buf, len);
    } else {
        uint32_t val = len == 4 && off % 4 == 0 ? reg_read(v, off) : 0;
        memset(buf, 0, len);
        memcpy(buf, &val, len < 4 ? len : 4);
    }
    lock_drop(&v->lock);
}

static void mmio_write(void *dev, uint64_t off, const void *buf, unsigned len)
{
    struct virtio_dev *v = dev;
    uint32_t val;
    lock_take(&v->lock);
    if (off >= R_CONFIG) {
        virtio_config_write(v, off - R_CONFIG, buf, len);
    } else if (len == 4 && off % 4 == 0) {
        memcpy(&val, buf, 4);
        reg_write(v, off, val);
    }
    lock_drop(&v->lock);
}

static void mmio_reset(void *dev)
{
    virtio_reset(dev);
}

static int mmio_save(const void *dev, struct state_out *s)
{
    return virtio_save((struct virtio_dev *)(uintptr_t)dev, s); /* it waits for what is in flight */
}

static int mmio_load(void *dev, struct state_in *s, unsigned version)
{
    return version == virtio_mmio_ops.version ? virtio_load(dev, s) : -EINVAL;
}

const struct dev_ops virtio_mmio_ops = {
    .name = "virtio-mmio",
    .read = mmio_read,
    .write = mmio_write,
    .reset = mmio_reset,
    .save = mmio_save,
    .load = mmio_load,
    .version = 1,
};
