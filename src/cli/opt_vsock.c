/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/options.h"

/* CIDs 0 to 2 mean the hypervisor, the local machine and the host; the last one is "any". */
enum { CID_MIN = 3 };

static int set_cid(struct machine_vsock *k, const char *text, struct err *e)
{
    unsigned cid;
    if (cli_parse_number(text, CID_MIN, UINT32_MAX - 1, &cid) < 0)
        return err_set(e, EINVAL, "--vsock: \"%s\" is not a CID; it must be a number from %d to %u", text, CID_MIN,
                       UINT32_MAX - 1);
    k->cid = cid;
    return 0;
}

/* CID:FILE or cid=CID,path=FILE; the argument is cut in place. */
int opt_vsock(struct run_options *o, char *arg, struct err *e)
{
    struct machine_vsock *k = &o->mc.vsock;
    char *key, *value, *rest = arg, *colon = strchr(arg, ':');
    int r = 0;
    if (k->cid)
        return err_set(e, EINVAL, "--vsock: there is one already; a machine has one at most");
    if (*arg >= '0' && *arg <= '9' && colon) {
        *colon = '\0';
        k->path = colon + 1;
        r = set_cid(k, arg, e);
    } else {
        while (r == 0 && opt_next(&rest, &key, &value)) {
            if (value && strcmp(key, "cid") == 0)
                r = set_cid(k, value, e);
            else if (value && strcmp(key, "path") == 0)
                k->path = value;
            else
                r = err_set(e, EINVAL, "--vsock: \"%s\" is not understood; it must be CID:FILE or cid=CID,path=FILE",
                            key);
        }
    }
    if (r == 0 && (!k->cid || !k->path || !*k->path))
        r = err_set(e, EINVAL, "--vsock: the %s is missing; it must be CID:FILE or cid=CID,path=FILE",
                    k->cid ? "file name" : "CID");
    return r;
}
