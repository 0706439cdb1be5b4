/* SPDX-License-Identifier: MIT */
/* virtio over MMIO, version 2 (virtio 1.2, "Virtio Over MMIO"). The bus device is a struct virtio_dev. */
#ifndef GAZDA_VIRTIO_TRANSPORT_MMIO_H
#define GAZDA_VIRTIO_TRANSPORT_MMIO_H

#include "bus/bus.h"

enum { VIRTIO_MMIO_LEN = 0x1000 };

/* Map with BUS_1 | BUS_2 | BUS_4: registers take only words, the configuration space takes all. */
extern const struct dev_ops virtio_mmio_ops;

#endif
