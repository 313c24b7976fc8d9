// Sends packets through sockets that it is handed, paced, and counts what comes out at others.
//
// usage: load BYTES BURST RATE SECONDS SENT_CHANNEL RECEIVED_CHANNEL PIDS PATH…
//   channels: of the ChannelData around what is sent and what must arrive; 0 is plain UDP
//   PIDS:     processes whose CPU time is counted besides this one's, with commas between
//   PATH:     FD,ADDRESS,PORT,FD: the sender's socket, where it sends to, and where that is to arrive
//
// Some packets are due together, one (or one burst, as one segmented send) for each of the next paths. What has
// arrived is read in the same thread before more is sent, so that nothing is woken up by a packet. Prints
// `sent received wrong seconds cpu_ns…`, the CPU times being this process' and those of PIDS.

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum {
	TOGETHER = 20,
	PATHS_MAX = 64,
	PIDS_MAX = 8,
	BATCH = 32,
	BYTES_MAX = 2048,
	BURST_MAX = 40,
	CHANNEL_HEADER_BYTES = 4,
};
static const uint64_t BEHIND_NS_MAX = 500 * 1000, SILENCE_NS = 20 * 1000 * 1000, SECOND_NS = 1000 * 1000 * 1000;

struct path {
	int sender, receiver;
	struct sockaddr_in to;
};

struct expected {
	size_t bytes;
	uint8_t header[CHANNEL_HEADER_BYTES];
	size_t header_bytes;
};

static uint64_t ns(clockid_t clock)
{
	struct timespec time;
	if (clock_gettime(clock, &time))
		err(1, "clock_gettime");
	return (uint64_t)time.tv_sec * SECOND_NS + (uint64_t)time.tv_nsec;
}

// The CPU time of another process, kernel threads included; clock_getcpuclockid(3) makes the same number.
static clockid_t cpu_clock(int pid)
{
	return (clockid_t)(~(unsigned)pid << 3 | 2);
}

static size_t write_header(uint8_t *at, int channel, size_t bytes)
{
	if (!channel)
		return 0;
	uint16_t words[2] = {htons((uint16_t)channel), htons((uint16_t)bytes)};
	memcpy(at, words, sizeof(words));
	return sizeof(words);
}

static void read_all(int socket, const struct expected *expected, uint64_t *received, uint64_t *wrong)
{
	static uint8_t buffers[BATCH][BYTES_MAX];
	static struct iovec vectors[BATCH];
	static struct mmsghdr messages[BATCH];
	int count;
	do {
		for (int i = 0; i < BATCH; i++) {
			vectors[i] = (struct iovec){buffers[i], BYTES_MAX};
			messages[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
		}
		count = recvmmsg(socket, messages, BATCH, MSG_DONTWAIT, NULL);
		for (int i = 0; i < count; i++) {
			int is_right = messages[i].msg_len == expected->bytes &&
				       !memcmp(buffers[i], expected->header, expected->header_bytes);
			*(is_right ? received : wrong) += 1;
			if (!is_right && *wrong == 1)
				warnx("%u bytes that begin with %02x%02x", messages[i].msg_len, buffers[i][0], buffers[i][1]);
		}
	} while (count == BATCH);
}

static void parse_path(char *text, struct path *path)
{
	char address[32];
	int port;
	if (sscanf(text, "%d,%31[0-9.],%d,%d", &path->sender, address, &port, &path->receiver) != 4)
		errx(2, "%s: a path is FD,ADDRESS,PORT,FD", text);
	path->to = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
	if (!inet_aton(address, &path->to.sin_addr))
		errx(2, "%s: not an address", address);
}

int main(int argc, char **argv)
{
	if (argc < 9 || argc - 8 > PATHS_MAX)
		errx(2, "usage: load BYTES BURST RATE SECONDS SENT_CHANNEL RECEIVED_CHANNEL PIDS PATH…, at most %d", PATHS_MAX);
	size_t bytes = strtoul(argv[1], NULL, 10), burst = strtoul(argv[2], NULL, 10);
	double rate = strtod(argv[3], NULL), seconds = strtod(argv[4], NULL);
	int sent_channel = atoi(argv[5]), received_channel = atoi(argv[6]);
	if (bytes < 1 || bytes > 1400 || burst < 1 || burst > BURST_MAX || rate <= 0)
		errx(2, "1 to 1400 bytes, bursts of 1 to %d, and a rate", BURST_MAX);

	clockid_t clocks[PIDS_MAX] = {CLOCK_PROCESS_CPUTIME_ID};
	size_t clock_count = 1, path_count = (size_t)argc - 8;
	for (char *pid = strtok(argv[7], ","); pid && clock_count < PIDS_MAX; pid = strtok(NULL, ","))
		clocks[clock_count++] = cpu_clock(atoi(pid));

	static uint8_t packets[BURST_MAX * BYTES_MAX];
	size_t packet_bytes = 0, all_bytes = 0;
	for (size_t i = 0; i < burst; i++) {
		size_t header_bytes = write_header(packets + all_bytes, sent_channel, bytes);
		memset(packets + all_bytes + header_bytes, 0x5a, bytes);
		packet_bytes = header_bytes + bytes;
		all_bytes += packet_bytes;
	}
	struct expected expected = {0};
	expected.header_bytes = write_header(expected.header, received_channel, bytes);
	expected.bytes = expected.header_bytes + bytes;

	struct path paths[PATHS_MAX];
	int segment_bytes = burst > 1 ? (int)packet_bytes : 0;
	for (size_t i = 0; i < path_count; i++) {
		parse_path(argv[8 + i], &paths[i]);
		if (setsockopt(paths[i].sender, IPPROTO_UDP, UDP_SEGMENT, &segment_bytes, sizeof(segment_bytes)))
			err(1, "UDP_SEGMENT");
	}

	uint64_t sent = 0, received = 0, wrong = 0, events = 0, cpu_ns[PIDS_MAX];
	uint64_t together = burst < TOGETHER ? TOGETHER / burst : 1;
	uint64_t interval_ns = (uint64_t)((double)(together * burst) * 1e9 / rate);
	for (size_t i = 0; i < clock_count; i++)
		cpu_ns[i] = ns(clocks[i]);
	uint64_t begun = ns(CLOCK_MONOTONIC), now = begun, due = begun;
	while (now - begun < (uint64_t)(seconds * 1e9)) {
		for (size_t i = 0; i < path_count; i++)
			read_all(paths[i].receiver, &expected, &received, &wrong);
		for (uint64_t i = 0; i < together; i++) {
			struct path *path = &paths[events++ % path_count];
			ssize_t result = sendto(path->sender, packets, all_bytes, 0, (struct sockaddr *)&path->to, sizeof(path->to));
			sent += result == (ssize_t)all_bytes ? burst : 0;
		}
		now = ns(CLOCK_MONOTONIC);
		// What is too late is never sent.
		due = (due + BEHIND_NS_MAX < now ? now - BEHIND_NS_MAX : due) + interval_ns;
		struct timespec until = {(time_t)(due / SECOND_NS), (long)(due % SECOND_NS)};
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		now = ns(CLOCK_MONOTONIC);
	}
	double took = (double)(now - begun) / 1e9;
	struct timespec pause = {.tv_nsec = 1000 * 1000};
	for (uint64_t last = now, before = received; received < sent && now - last < SILENCE_NS; now = ns(CLOCK_MONOTONIC)) {
		clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
		for (size_t i = 0; i < path_count; i++)
			read_all(paths[i].receiver, &expected, &received, &wrong);
		if (received != before) {
			before = received;
			last = now;
		}
	}
	printf("%lu %lu %lu %f", sent, received, wrong, took);
	for (size_t i = 0; i < clock_count; i++)
		printf(" %lu", ns(clocks[i]) - cpu_ns[i]);
	printf("\n");
	return 0;
}
