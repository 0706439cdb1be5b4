#include <linux/kvm.h>
#include "cpu/engine.h"
