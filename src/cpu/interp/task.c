/* SPDX-License-Identifier: MIT */
/* Hardware task switching. */
#include "cpu/interp/sys.h"

void sys_task_switch(struct interp *m, const struct uop *u, const struct sys_task *t)
{
    interp_fatal(m, u, "hardware task switch to selector 0x%x", t->sel);
}
