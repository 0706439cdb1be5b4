/* SPDX-License-Identifier: MIT */
/*
 * Where things are in a stub process, for stub.c and stub_code.S. In the middle of the user half, where systems do not
 * place anything by themselves.
 */
#ifndef GAZDA_HOST_STUB_ABI_H
#define GAZDA_HOST_STUB_ABI_H

#define STUB_BASE 0x3a5a00000000
#define STUB_CTL (STUB_BASE + 0x1000) /* read-only in the process: written by the monitor */
#define STUB_RW (STUB_BASE + 0x2000)  /* the process can write to it: nothing in it is trusted */
#define STUB_ALT (STUB_BASE + 0x3000) /* stack of the signal handler; likewise */
#define STUB_ALT_SIZE 0x8000
#define STUB_END (STUB_ALT + STUB_ALT_SIZE)
#define STUB_USER_END 0x7ffffffff000

/* File descriptors in the process. The last four are eventfds. */
#define STUB_FD_SHARED 3
#define STUB_FD_RAM 4
#define STUB_FD_TRAP 5  /* from the guest's thread to the monitor: it has stopped */
#define STUB_FD_GRANT 6 /* to the guest's thread: it may go on */
#define STUB_FD_CMD 7   /* from the monitor to the mapper */
#define STUB_FD_DONE 8  /* back */
#define STUB_FDS 9

/* STUB_CTL */
#define CTL_NOPS 0x00
#define CTL_GRANT 0x04 /* when the mapper is done it lets the guest go on instead of telling the monitor */
#define CTL_PPID 0x08
#define CTL_TSC 0x0c /* RDTSC faults */
#define CTL_FS 0x10
#define CTL_GS 0x18
#define CTL_DATA_SEL 0x20 /* for DS and ES */
#define CTL_FS_SEL 0x22
#define CTL_GS_SEL 0x24
#define CTL_ONE 0x28   /* 1 */
#define CTL_FLAGS 0x30 /* those that rt_sigreturn takes from its caller rather than from the frame */
#define CTL_OPS 0x40   /* 64 bytes each: number, six arguments */
#define STUB_OPS 60

/* STUB_RW */
#define RW_TID 0x00
#define RW_SIG 0x04
#define RW_INFO 0x08
#define RW_CONTEXT 0x10
#define RW_FS 0x18
#define RW_GS 0x20
#define RW_SEL 0x28   /* DS, ES, FS, GS: 16 bits each */
#define RW_ERROR 0x30 /* of the last of the mapper's calls that failed */
#define RW_BIN 0x38   /* what was read from eventfds */

#endif
