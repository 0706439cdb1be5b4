#include "base/types.h"
#include "mem/over/share.h" /* BAD: a subfolder, upward */
#include "mem.h" /* BAD: no path from the top */
#include "x86/insn.h" /* BAD: same layer */
