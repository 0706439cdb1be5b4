#include "bus/bus.h"
#include "cpu/interp/interp.h" /* BAD: a subfolder */
#include "dev/pic.h" /* BAD: same layer */
