#include "base/types.h"
#include "bus/bus.h"
#include "dev/pic.h"
#include "cpu/engine.h" /* BAD: same layer */
#include "virtio/queue.h" /* BAD: same layer */
