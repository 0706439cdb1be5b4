#include "bus/bus.h" /* BAD: upward */
