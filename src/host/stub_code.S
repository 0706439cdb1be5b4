/* SPDX-License-Identifier: MIT */
/*
 * The program of a stub process (stub.c), as an ELF file in one piece. It has no stack but the signal handler's, which
 * is why it calls nothing. Thread B, the first, maps and unmaps what the monitor asks for and lets A run; thread A is
 * the guest's: it runs nothing of this but the signal handler. What guest code can do to it: whatever it likes to A's
 * registers, to STUB_RW and STUB_ALT. A's filter lets it, from this page, write to the eventfd that tells of a trap,
 * read the one that lets it go on, and return from the handler. Wherever guest code jumps to, behind the former comes
 * the latter, with all registers set anew in between: A does not run guest code from the moment that the monitor hears
 * of a trap until it is let go.
 */
#include <asm/unistd.h>

#include "host/stub_abi.h"

#define ADDR(label) (STUB_BASE + (label) - stub_elf)
#define SIG_MASK 0xffffffffffffffff
#define BIT(sig) (1 << ((sig) - 1))
#define CLONE_A 0x50f00 /* VM FS FILES SIGHAND THREAD SYSVSEM */
#define LOW32(x) ((x) & 0xffffffff)
#define HIGH32(x) ((x) >> 32)

	.section .rodata
	.balign 4096
	.globl stub_elf, stub_elf_end
stub_elf:
	.byte 0x7f, 'E', 'L', 'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0
	.short 2, 62 /* EXEC, x86-64 */
	.long 1
	.quad ADDR(start), 64, 0
	.long 0
	.short 64, 56, 2, 0, 0, 0
	.long 1, 5 /* LOAD, RX */
	.quad 0, STUB_BASE, STUB_BASE, stub_elf_end - stub_elf, stub_elf_end - stub_elf, 4096
	.long 0x6474e551, 6 /* GNU_STACK, RW */
	.quad 0, 0, 0, 0, 0, 16

	.macro sys nr
	mov $\nr, %eax
	syscall
	.endm

start:
	movabs $STUB_CTL, %rbx
	movabs $STUB_RW, %rbp
	mov $1, %edi /* PR_SET_PDEATHSIG */
	mov $9, %esi
	sys __NR_prctl
	mov $15, %edi /* PR_SET_NAME */
	lea name(%rip), %rsi
	sys __NR_prctl
	mov $4, %edi /* PR_SET_DUMPABLE */
	xor %esi, %esi
	sys __NR_prctl
	mov %rbx, %rdi
	mov $0x1000, %esi
	mov $1, %edx
	mov $0x11, %r10d /* SHARED FIXED */
	mov $STUB_FD_SHARED, %r8d
	xor %r9d, %r9d
	sys __NR_mmap
	mov %rbp, %rdi
	mov $(STUB_END - STUB_RW), %esi
	mov $3, %edx
	mov $0x11, %r10d
	mov $0x1000, %r9d
	sys __NR_mmap
	cmp %rbp, %rax
	jne fail
	sys __NR_getppid
	cmp CTL_PPID(%rbx), %eax
	jne fail
	xor %edi, %edi
	movabs $STUB_BASE, %rsi
	sys __NR_munmap
	movabs $STUB_END, %rdi
	movabs $STUB_USER_END, %rsi
	sub %rdi, %rsi
	sys __NR_munmap
	lea signals(%rip), %r12
1:	movzbl (%r12), %edi
	lea action(%rip), %rsi
	xor %edx, %edx
	mov $8, %r10d
	sys __NR_rt_sigaction
	inc %r12
	cmpb $0, (%r12)
	jne 1b
	mov $38, %edi /* PR_SET_NO_NEW_PRIVS */
	mov $1, %esi
	xor %edx, %edx
	xor %r10d, %r10d
	xor %r8d, %r8d
	sys __NR_prctl
	mov $CLONE_A, %edi
	xor %esi, %esi
	xor %edx, %edx
	xor %r10d, %r10d
	xor %r8d, %r8d
	sys __NR_clone
	test %eax, %eax
	jz thread_a
	js fail
	mov $1, %edi
	xor %esi, %esi
	lea program_b(%rip), %rdx
	sys __NR_seccomp
	test %eax, %eax
	jnz fail

idle:	mov $STUB_FD_CMD, %edi
	lea RW_BIN(%rbp), %rsi
	mov $8, %edx
	sys __NR_read
	cmp $8, %rax
	jne idle
	xor %r15d, %r15d
	mov CTL_NOPS(%rbx), %r13d
	lea CTL_OPS(%rbx), %r14
1:	dec %r13d
	js 3f
	mov (%r14), %rax
	mov 8(%r14), %rdi
	mov 16(%r14), %rsi
	mov 24(%r14), %rdx
	mov 32(%r14), %r10
	mov 40(%r14), %r8
	mov 48(%r14), %r9
	syscall
	cmp $-4095, %rax
	jb 2f
	mov %rax, RW_ERROR(%rbp)
	mov $1, %r15d
2:	add $64, %r14
	jmp 1b
3:	mov $STUB_FD_DONE, %edi
	mov $STUB_FD_GRANT, %eax
	cmpl $0, CTL_GRANT(%rbx)
	cmovne %eax, %edi
	mov $STUB_FD_TRAP, %ecx /* a call failed: the guest must not run */
	test %r15d, %r15d
	jz 4f
	cmp %eax, %edi
	cmove %ecx, %edi
4:
	lea CTL_ONE(%rbx), %rsi
	mov $8, %edx
	sys __NR_write
	jmp idle

fail:	mov $1, %edi
	sys __NR_exit_group
	hlt

thread_a:
	sys __NR_gettid
	mov %eax, RW_TID(%rbp)
	lea stack(%rip), %rdi
	xor %esi, %esi
	sys __NR_sigaltstack
	cmpl $0, CTL_TSC(%rbx)
	je 1f
	mov $26, %edi /* PR_SET_TSC */
	mov $2, %esi  /* PR_TSC_SIGSEGV */
	sys __NR_prctl
	test %eax, %eax
	jnz fail
1:	mov $2, %edi /* SIG_SETMASK */
	lea mask(%rip), %rsi
	xor %edx, %edx
	mov $8, %r10d
	sys __NR_rt_sigprocmask
	mov $1, %edi
	xor %esi, %esi
	lea program_a(%rip), %rdx
	sys __NR_seccomp
	test %eax, %eax
	jnz fail
	ud2 /* the first trap: the monitor fills its frame in */

	/* A: any signal. The frame at RSP holds the guest's state, but for the segment bases and selectors. */
	.balign 16
handler:
	movabs $STUB_CTL, %rbx
	movabs $STUB_RW, %rbp
	rdfsbase %rax
	mov %rax, RW_FS(%rbp)
	rdgsbase %rax
	mov %rax, RW_GS(%rbp)
	mov %ds, %eax
	mov %ax, RW_SEL(%rbp)
	mov %es, %eax
	mov %ax, RW_SEL+2(%rbp)
	mov %fs, %eax
	mov %ax, RW_SEL+4(%rbp)
	mov %gs, %eax
	mov %ax, RW_SEL+6(%rbp)
	mov %edi, RW_SIG(%rbp)
	mov %rsi, RW_INFO(%rbp)
	mov %rdx, RW_CONTEXT(%rbp)
	mov $STUB_FD_TRAP, %edi
	lea CTL_ONE(%rbx), %rsi
	mov $8, %edx
	sys __NR_write
stopped:
	movabs $STUB_CTL, %rbx
	movabs $STUB_RW, %rbp
	mov $STUB_FD_GRANT, %edi
	lea RW_BIN(%rbp), %rsi
	mov $8, %edx
	sys __NR_read
	cmp $8, %rax
	jne stopped

	.macro selector from, to
	mov \from(%rbx), %ax
	mov \to, %ecx
	cmp %ax, %cx
	je 1f
	mov %eax, \to
1:
	.endm
	selector CTL_DATA_SEL, %ds
	selector CTL_DATA_SEL, %es
	selector CTL_FS_SEL, %fs
	selector CTL_GS_SEL, %gs
	mov CTL_FS(%rbx), %rax
	wrfsbase %rax
	mov CTL_GS(%rbx), %rax
	wrgsbase %rax
	pushq CTL_FLAGS(%rbx)
	popfq
	add $8, %rsp
restorer:
	sys __NR_rt_sigreturn
	hlt

	.balign 8
action:	.quad ADDR(handler), 0x0c000004, ADDR(restorer), SIG_MASK /* SIGINFO ONSTACK RESTORER */
name:	.asciz "gazda-guest"
signals:
	.byte 4, 5, 7, 8, 10, 11, 31, 0 /* ILL TRAP BUS FPE USR1 SEGV SYS */
	.balign 8
mask:	.quad SIG_MASK ^ (BIT(4) | BIT(5) | BIT(7) | BIT(8) | BIT(10) | BIT(11) | BIT(31))
stack:	.quad STUB_ALT, 0, STUB_ALT_SIZE

	/* struct sock_filter: load a word of seccomp_data, compare, return */
	.macro f_load off
	.short 0x20
	.byte 0, 0
	.long \off
	.endm
	.macro f_eq val, yes, no
	.short 0x15
	.byte \yes, \no
	.long \val
	.endm
	.macro f_ge val, yes, no
	.short 0x35
	.byte \yes, \no
	.long \val
	.endm
	.macro f_ret val
	.short 0x06
	.byte 0, 0
	.long \val
	.endm
#define TRAP 0x30000
#define ALLOW 0x7fff0000
#define KILL_PROCESS 0x80000000
#define AUDIT_X86_64 0xc000003e

	.balign 8
program_a:
	.quad (filter_a_end - filter_a) / 8, ADDR(filter_a)
filter_a:
	f_load 4
	f_eq AUDIT_X86_64, 0, 12
	f_load 12 /* where the call is: only on this page */
	f_eq HIGH32(STUB_BASE), 0, 10
	f_load 8
	f_ge LOW32(STUB_BASE) + 0x1000, 8, 0
	f_load 0
	f_eq __NR_rt_sigreturn, 7, 0
	f_eq __NR_write, 0, 2
	f_load 16
	f_eq STUB_FD_TRAP, 4, 3
	f_eq __NR_read, 0, 2
	f_load 16
	f_eq STUB_FD_GRANT, 1, 0
	f_ret TRAP
	f_ret ALLOW
filter_a_end:

	.balign 8
program_b:
	.quad (filter_b_end - filter_b) / 8, ADDR(filter_b)
filter_b:
	f_load 4
	f_eq AUDIT_X86_64, 0, 7
	f_load 0
	f_eq __NR_mmap, 6, 0
	f_eq __NR_munmap, 5, 0
	f_eq __NR_mprotect, 4, 0
	f_eq __NR_read, 3, 0
	f_eq __NR_write, 2, 0
	f_eq __NR_exit_group, 1, 0
	f_ret KILL_PROCESS
	f_ret ALLOW
filter_b_end:
stub_elf_end:
	.section .note.GNU-stack, "", @progbits
