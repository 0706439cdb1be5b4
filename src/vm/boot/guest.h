/* SPDX-License-Identifier: MIT */
/* Joins the boot loader to the machine: the machine_config.load of every guest that starts from files. */
#ifndef GAZDA_VM_BOOT_GUEST_H
#define GAZDA_VM_BOOT_GUEST_H

#include "vm/boot/boot.h"
#include "vm/machine.h"

/* arg is the struct boot_config with what the user said; what the machine knows is added to a copy. */
int boot_guest(void *arg, const struct machine_guest *g, struct err *e);

#endif
