#include "mem/mem.h"
#include "base/types.h"
