/* SPDX-License-Identifier: MIT */
/* Checksums and segmentation in software, for a side that does not take a frame as it is. Frames are hostile. */
#ifndef GAZDA_HOST_NET_OFFLOAD_H
#define GAZDA_HOST_NET_OFFLOAD_H

#include "host/net.h"

/* Where the headers of a frame are. */
struct net_layers {
    bool v4, v6;
    uint8_t proto; /* IPPROTO_*; 0: nothing with a checksum that could be made (a fragment, an unknown header) */
    uint32_t l3, l4, data; /* offsets; data only for TCP and UDP */
};
/* False: no IP, or cut off. Everything up to data lies in the frame. */
bool net_parse(const uint8_t *frame, size_t len, struct net_layers *out);

/* The ones' complement sum of bytes, not complemented, continuing from sum. */
uint16_t net_sum(const void *buf, size_t len, uint16_t sum);

/* The sum of the pseudo header of a TCP or UDP frame. */
uint16_t net_pseudo_sum(const uint8_t *frame, const struct net_layers *l, size_t l4_len);
/* Fills in the lengths and all checksums of one; it has no padding. */
void net_finish_l4(uint8_t *frame, size_t len, const struct net_layers *l);

/* Whether the header's references lie in the frame and its kind of segmentation fits what the frame is. */
bool net_hdr_ok(const struct net_hdr *h, const uint8_t *frame, size_t len);
/* NET_*: what a side must take to be given this frame. */
unsigned net_hdr_needs(const struct net_hdr *h);

/* Completes the checksum that h asks for, and clears that in h. */
void net_finish_csum(struct net_hdr *h, uint8_t *frame, size_t len);
/* The same for a large TCP segment that stays whole: lengths and checksums are made anew. False: it is none. */
bool net_finish_whole(struct net_hdr *h, uint8_t *frame, size_t len);
/*
 * Cuts a large segment (gso_type is not NONE) into frames with complete checksums, built in scratch (NET_FRAME_MAX),
 * for emit, which says false to stop. False: it cannot be cut.
 */
struct net_cut {
    bool (*emit)(void *arg, const uint8_t *frame, size_t len);
    void *arg;
    uint8_t *scratch;
};
bool net_segment(const struct net_hdr *h, const uint8_t *frame, size_t len, const struct net_cut *cut);

/* Cuts an IPv4 packet that may be cut into fragments in frames of at most limit bytes; the same rules. */
bool net_fragment_v4(const uint8_t *frame, size_t len, size_t limit, const struct net_cut *cut);

#endif
