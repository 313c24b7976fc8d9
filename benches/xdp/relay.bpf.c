// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
// TURN's channels without a socket: ChannelData (RFC 8656 section 12.4) to UDP and back, IPv4 only.
//
//  client ─ ChannelData ─► [ check ─► binding ─► route ─► headers ] ─ UDP ─► peer      and the other way round
//                              └─────────┴─────────┴─► XDP_PASS: the relay's sockets see the packet as ever
//
// The relay in user space decides who may send what to whom: it writes bindings with the time at which the first of
// allocation, permission and channel ends, and reads their counters. The program decides nothing, so that whatever it
// does not know, or no longer, takes the long way.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Where clients come to. Relayed addresses have other ports.
#define LISTEN_PORT 3478
#define AF_INET 2
#define HOPS 64
#define FRAGMENT_BITS 0x3fff
// More than these are not written by the relay, and take the long way.
#define BINDINGS_MAX 65536

// measure.py packs the next two by hand.
struct key {
	__be32 source, destination;
	__be16 source_port, destination_port;
	__be16 channel; // 0: the packet is a peer's
	__u16 zero;
};

struct binding {
	__be32 source, destination;
	__be16 source_port, destination_port;
	__be16 channel; // 0: the packet goes to a peer
	__u16 zero;
	__u64 expires_ns; // of CLOCK_MONOTONIC
	__u64 packets, bytes; // bytes of payloads
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, BINDINGS_MAX);
	__type(key, struct key);
	__type(value, struct binding);
} bindings SEC(".maps");

struct headers {
	struct ethhdr ethernet;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

struct channel_header {
	__be16 channel, length;
};

// What of a packet its UDP checksum covers and the relay changes. The length counts twice: the pseudo-header has it too.
struct summed {
	__be32 source, destination;
	__be16 source_port, destination_port, length, length_again;
	struct channel_header channel;
};

static __always_inline __u16 folded(__u64 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

static __always_inline struct summed summed_of(const struct headers *headers, const struct channel_header *channel)
{
	struct summed summed = {
		.source = headers->ip.saddr,
		.destination = headers->ip.daddr,
		.source_port = headers->udp.source,
		.destination_port = headers->udp.dest,
		.length = headers->udp.len,
		.length_again = headers->udp.len,
		.channel = *channel,
	};
	return summed;
}

static __always_inline int is_whole_udp(const struct headers *headers)
{
	return headers->ethernet.h_proto == bpf_htons(ETH_P_IP) && headers->ip.version == 4 && headers->ip.ihl == 5 &&
	       headers->ip.protocol == IPPROTO_UDP && !(headers->ip.frag_off & bpf_htons(FRAGMENT_BITS)) &&
	       bpf_ntohs(headers->ip.tot_len) == sizeof(struct iphdr) + bpf_ntohs(headers->udp.len);
}

SEC("xdp")
int relay(struct xdp_md *ctx)
{
	void *end = (void *)(long)ctx->data_end;
	struct headers *in = (void *)(long)ctx->data;
	struct channel_header *first = (void *)(in + 1);
	// The few packets of less than four bytes take the long way as well.
	if ((void *)(first + 1) > end || !is_whole_udp(in))
		return XDP_PASS;

	struct key key = {
		.source = in->ip.saddr,
		.destination = in->ip.daddr,
		.source_port = in->udp.source,
		.destination_port = in->udp.dest,
	};
	struct channel_header old = {}, new = {};
	__u16 payload = bpf_ntohs(in->udp.len) - sizeof(struct udphdr);
	if (in->udp.dest == bpf_htons(LISTEN_PORT)) {
		// Padding is left to user space, and STUN with it: its first two bits are zero.
		if ((bpf_ntohs(first->channel) & 0xf000) != 0x4000 || bpf_ntohs(first->length) + sizeof(old) != payload)
			return XDP_PASS;
		old = *first;
		key.channel = old.channel;
		payload -= sizeof(old);
	}
	struct binding *binding = bpf_map_lookup_elem(&bindings, &key);
	if (!binding || bpf_ktime_get_ns() >= binding->expires_ns)
		return XDP_PASS;

	struct headers out = *in;
	__u16 length = sizeof(struct udphdr) + payload;
	if (binding->channel) {
		new.channel = binding->channel;
		new.length = bpf_htons(payload);
		length += sizeof(new);
	}
	out.ip.saddr = binding->source;
	out.ip.daddr = binding->destination;
	out.ip.tot_len = bpf_htons(sizeof(struct iphdr) + length);
	out.ip.ttl = HOPS;
	out.ip.check = 0;
	out.ip.check = ~folded(bpf_csum_diff(0, 0, (void *)&out.ip, sizeof(out.ip), 0));
	out.udp.source = binding->source_port;
	out.udp.dest = binding->destination_port;
	out.udp.len = bpf_htons(length);
	if (in->udp.check) {
		struct summed before = summed_of(in, &old), after = summed_of(&out, &new);
		__u16 sum = ~in->udp.check;
		sum = ~folded(bpf_csum_diff((void *)&before, sizeof(before), (void *)&after, sizeof(after), sum));
		out.udp.check = sum ? sum : 0xffff;
	}

	// Also says whether the packet is too long for the way, and needs `net.ipv4.ip_forward`.
	struct bpf_fib_lookup route = {
		.family = AF_INET,
		.l4_protocol = IPPROTO_UDP,
		.tos = out.ip.tos,
		.tot_len = sizeof(struct iphdr) + length,
		.ipv4_src = out.ip.saddr,
		.ipv4_dst = out.ip.daddr,
		.sport = out.udp.source,
		.dport = out.udp.dest,
		.ifindex = ctx->ingress_ifindex,
	};
	if (bpf_fib_lookup(ctx, &route, sizeof(route), 0) != BPF_FIB_LKUP_RET_SUCCESS)
		return XDP_PASS;
	__builtin_memcpy(out.ethernet.h_source, route.smac, ETH_ALEN);
	__builtin_memcpy(out.ethernet.h_dest, route.dmac, ETH_ALEN);

	int removed = (key.channel ? (int)sizeof(old) : 0) - (binding->channel ? (int)sizeof(new) : 0);
	if (removed && bpf_xdp_adjust_head(ctx, removed))
		return XDP_PASS;
	end = (void *)(long)ctx->data_end;
	in = (void *)(long)ctx->data;
	if ((void *)(in + 1) > end)
		return XDP_DROP;
	*in = out;
	if (new.channel) {
		first = (void *)(in + 1);
		if ((void *)(first + 1) > end)
			return XDP_DROP;
		*first = new;
	}
	__sync_fetch_and_add(&binding->packets, 1);
	__sync_fetch_and_add(&binding->bytes, payload);
	return bpf_redirect(route.ifindex, 0);
}

// The kernel gives bpf_fib_lookup() to programs under its own licence only.
char license_name[] SEC("license") = "GPL";
