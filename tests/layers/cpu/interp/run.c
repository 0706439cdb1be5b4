#include "cpu/engine.h"
#include "x86/insn.h"
#include "mem/mem.h"
#include "bus/bus.h" /* BAD: engines exit */
#include "cpu/translate/emit.h" /* BAD: another engine */
# include <linux/kvm.h> /* BAD: kvm only */
