/* SPDX-License-Identifier: Apache-2.0 */
/* The benchmark's load generator: a server, and clients that measure. It talks
 * to this machine only, over TCP or vsock loopback, and prints key=value pairs.
 *
 * On a connection, the client sends PING any number of times and gets each
 * back. Then it says what follows: ECHO, everything comes back; UP, DOWN or
 * BOTH, blocks flow until one says that it is the last, and every byte is
 * counted at both ends. To end DOWN, the client sends a byte. */
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

#define BLOCK (128 * 1024)
#define PATIENCE 5   /* seconds that anything may take */
#define LIFETIME 100 /* seconds that a client may take in all */
#define MESSAGE_MAX BLOCK
#define SAMPLES_MAX (1 << 22)
/* Memory is at rest when so many KiB change in so many milliseconds. */
#define SETTLED 256
#define SETTLE_MS 300
#define SETTLE_TRIES 15
#define BATCH 8 /* connections that are on their way at once */
#define EVENTS_MAX 256
#define SESSIONS_MAX 8

enum mode { NONE, PING = 'P', ECHO = 'E', UP = 'U', DOWN = 'D', BOTH = 'B' };

/* What a block starts with. */
struct block_header {
	uint64_t last;
	uint64_t total; /* bytes sent, this block included */
};

union address {
	struct sockaddr any;
	struct sockaddr_in in;
	struct sockaddr_vm vm;
};

/* A connection of the server, or a listener. */
struct peer {
	int fd;
	bool listening;
	enum mode mode;
	bool last_seen, ending, last_sent;
	uint64_t received, sent;
};

/* A connection of a client. */
struct flow {
	int fd;
	uint64_t until; /* when to end */
	uint64_t moved, sent_at;
	size_t due; /* bytes that have not come back */
};

static union address target;
static pid_t sessions[SESSIONS_MAX]; /* whose cost is of interest */
static int session_count;
static uint32_t samples[SAMPLES_MAX]; /* nanoseconds */
static size_t sample_count;
static _Atomic int last_fd; /* the highest of a socket, about */

_Noreturn static void
die(const char *what)
{
	(void)fprintf(stderr, "load: %s: %s\n", what, strerror(errno));
	exit(1);
}

_Noreturn static void
fail(const char *what)
{
	(void)fprintf(stderr, "load: %s\n", what);
	exit(1);
}

static uint64_t
now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

static double
seconds_since(uint64_t begin)
{
	return (double)(now() - begin) / 1e9;
}

static void
pause_ms(long ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000};

	nanosleep(&t, NULL);
}

static unsigned
number(const char *text, unsigned max)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (!isdigit((unsigned char)*text) || *end != '\0' || n > max) {
		(void)fprintf(
		    stderr, "load: '%s' is no number up to %u\n", text, max);
		exit(2);
	}
	return (unsigned)n;
}

/* tcp:PORT or vsock:PORT. */
static union address
parse_address(const char *text)
{
	union address a = {.any.sa_family = AF_INET};

	if (strncmp(text, "tcp:", 4) == 0) {
		a.in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
		a.in.sin_port = htons((uint16_t)number(text + 4, UINT16_MAX));
	} else if (strncmp(text, "vsock:", 6) == 0) {
		a.vm.svm_family = AF_VSOCK;
		a.vm.svm_cid = VMADDR_CID_LOCAL;
		a.vm.svm_port = number(text + 6, UINT16_MAX);
	} else {
		(void)fprintf(stderr, "load: '%s' is no address\n", text);
		exit(2);
	}
	return a;
}

static socklen_t
address_length(const union address *a)
{
	return a->any.sa_family == AF_VSOCK ? sizeof(a->vm) : sizeof(a->in);
}

static int
make_socket(const union address *a)
{
	struct timeval patience = {.tv_sec = PATIENCE};
	int fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0),
	    on = 1;

	if (fd == -1)
		die("socket");
	if (fd > last_fd)
		last_fd = fd;
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (a->any.sa_family == AF_INET)
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return fd;
}

static bool
send_all(int fd, const void *data, size_t n)
{
	const char *at = data;

	while (n > 0) {
		ssize_t sent = send(fd, at, n, MSG_NOSIGNAL);

		if (sent <= 0)
			return false;
		at += sent;
		n -= (size_t)sent;
	}
	return true;
}

static bool
receive_all(int fd, void *data, size_t n)
{
	char *at = data;

	while (n > 0) {
		ssize_t got = recv(fd, at, n, 0);

		if (got == 0)
			errno = ECONNRESET;
		if (got <= 0)
			return false;
		at += got;
		n -= (size_t)got;
	}
	return true;
}

/* Server */

static void
watch(int epoll, int operation, struct peer *p, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.ptr = p};

	if (epoll_ctl(epoll, operation, p->fd, &event) == -1)
		die("epoll_ctl");
}

static struct peer *
new_peer(int fd, bool listening)
{
	struct peer *p = calloc(1, sizeof(*p));

	if (p == NULL)
		die("calloc");
	p->fd = fd;
	p->listening = listening;
	return p;
}

static void
take_peer(int epoll, const struct peer *listener)
{
	struct timeval patience = {.tv_sec = PATIENCE};
	int fd = accept4(listener->fd, NULL, NULL, SOCK_CLOEXEC), on = 1;

	if (fd == -1)
		die("accept");
	/* Neither matters where it fails. */
	(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	(void)setsockopt(
	    fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	watch(epoll, EPOLL_CTL_ADD, new_peer(fd, false), EPOLLIN);
}

/* Counts n bytes of blocks. */
static void
sink(struct peer *p, const char *data, size_t n)
{
	size_t start = (BLOCK - p->received % BLOCK) % BLOCK;

	for (; start < n; start += BLOCK)
		p->last_seen = data[start] != 0;
	p->received += n;
	p->ending = p->last_seen && p->received % BLOCK == 0;
}

/* Returns false when the connection is to be closed; so do those below. */
static bool
serve_input(int epoll, struct peer *p)
{
	static char buffer[BLOCK];
	ssize_t got = recv(p->fd, buffer, sizeof(buffer), MSG_DONTWAIT);
	size_t from = 0, n;

	if (got <= 0)
		return got == -1 && errno == EAGAIN;
	n = (size_t)got;
	if (p->mode == NONE) {
		if (buffer[0] == PING)
			return send_all(p->fd, buffer, 1);
		p->mode = (enum mode)buffer[0];
		from = 1;
		if (p->mode == DOWN || p->mode == BOTH)
			watch(epoll, EPOLL_CTL_MOD, p, EPOLLIN | EPOLLOUT);
	}
	switch (p->mode) {
	case ECHO: return send_all(p->fd, buffer + from, n - from);
	case DOWN: p->ending = n > from; return true;
	case UP:
	case BOTH:
		sink(p, buffer + from, n - from);
		if (p->ending && p->mode == UP)
			return send_all(
			    p->fd, &p->received, sizeof(p->received));
		return true;
	default: return false;
	}
}

static bool
serve_output(int epoll, struct peer *p)
{
	static union {
		struct block_header header;
		char data[BLOCK];
	} block;
	size_t offset = p->sent % BLOCK;
	ssize_t sent;

	if (offset == 0)
		p->last_sent = p->ending;
	block.header.last = p->last_sent;
	block.header.total = p->sent - offset + BLOCK;
	sent = send(p->fd, block.data + offset, BLOCK - offset,
	    MSG_DONTWAIT | MSG_NOSIGNAL);
	if (sent <= 0)
		return sent == -1 && errno == EAGAIN;
	p->sent += (uint64_t)sent;
	if (p->last_sent && p->sent % BLOCK == 0) {
		watch(epoll, EPOLL_CTL_MOD, p, EPOLLIN);
		if (p->mode == BOTH)
			return send_all(
			    p->fd, &p->received, sizeof(p->received));
	}
	return true;
}

static void
serve(int epoll, struct peer *p, uint32_t events)
{
	bool open = true;

	if (p->listening) {
		take_peer(epoll, p);
		return;
	}
	if (events & ~(uint32_t)EPOLLOUT)
		open = serve_input(epoll, p);
	if (open && events & EPOLLOUT)
		open = serve_output(epoll, p);
	if (!open) {
		close(p->fd);
		free(p);
	}
}

/* Listens on all of the addresses. */
static void
run_server(char *const argv[])
{
	struct epoll_event events[EVENTS_MAX];
	int epoll = epoll_create1(EPOLL_CLOEXEC), fd, n;

	if (epoll == -1)
		die("epoll_create1");
	for (; *argv != NULL; argv++) {
		union address a = parse_address(*argv);

		fd = make_socket(&a);
		if (bind(fd, &a.any, address_length(&a)) == -1 ||
		    listen(fd, SOMAXCONN) == -1)
			die(*argv);
		watch(epoll, EPOLL_CTL_ADD, new_peer(fd, true), EPOLLIN);
	}
	for (;;) {
		n = epoll_wait(epoll, events, EVENTS_MAX, -1);
		for (int i = 0; i < n; i++)
			serve(epoll, events[i].data.ptr, events[i].events);
	}
}

/* What processes cost */

/* The time that a process and its children that ended have had, in seconds. */
static double
process_seconds(pid_t pid, unsigned long own_ticks, long child_ticks)
{
	double tick = 1.0 / (double)sysconf(_SC_CLK_TCK);
	double own = (double)own_ticks * tick;
	struct timespec t;
	clockid_t clock;

	/* To the nanosecond, where ticks are of 10 ms. */
	if (clock_getcpuclockid(pid, &clock) == 0 &&
	    clock_gettime(clock, &t) == 0)
		own = (double)t.tv_sec + (double)t.tv_nsec / 1e9;
	return own + (double)child_ticks * tick;
}

static bool
read_text(char *text, size_t size, const char *directory, const char *name)
{
	char path[300];
	ssize_t n;
	int fd;

	(void)snprintf(path, sizeof(path), "/proc/%s/%s", directory, name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd == -1)
		return false;
	/* Some come in pieces. */
	while ((n = read(fd, text, size - 1)) > 0) {
		text += n;
		size -= (size_t)n;
	}
	close(fd);
	*text = '\0';
	return n == 0;
}

/* The number after a name in a text like that of /proc/meminfo. */
static double
field(const char *text, const char *name)
{
	const char *at = strstr(text, name);

	return at == NULL ? 0 : strtod(at + strlen(name), NULL);
}

static bool
of_interest(int session)
{
	for (int i = 0; i < session_count; i++) {
		if (sessions[i] == session)
			return true;
	}
	return false;
}

struct cost {
	unsigned processes;
	double seconds, rss, pss; /* KiB */
};

/* Adds up the processes of the sessions; memory only if it is asked for. */
static struct cost
measure_cost(bool memory)
{
	struct cost cost = {0, 0, 0, 0};
	DIR *proc = session_count > 0 ? opendir("/proc") : NULL;
	struct dirent *entry;
	char text[4096];

	while (proc != NULL && (entry = readdir(proc)) != NULL) {
		unsigned long user, kernel;
		long child_user, child_kernel;
		int session;
		const char *end;

		if (!isdigit((unsigned char)entry->d_name[0]) ||
		    !read_text(text, sizeof(text), entry->d_name, "stat"))
			continue;
		end = strrchr(text, ')');
		if (end == NULL ||
		    sscanf(end,
			") %*c %*d %*d %d %*d %*d %*u %*u %*u %*u %*u "
			"%lu %lu %ld %ld",
			&session, &user, &kernel, &child_user,
			&child_kernel) != 5 ||
		    !of_interest(session))
			continue;
		cost.processes++;
		cost.seconds += process_seconds(atoi(entry->d_name),
		    user + kernel, child_user + child_kernel);
		if (memory && read_text(text, sizeof(text), entry->d_name,
				  "smaps_rollup")) {
			cost.rss += field(text, "\nRss:");
			cost.pss += field(text, "\nPss:");
		}
	}
	if (proc != NULL)
		closedir(proc);
	return cost;
}

static double
cpu_seconds(void)
{
	return measure_cost(false).seconds;
}

/* Clients */

static void
connect_flow(struct flow *f)
{
	char byte = PING;

	f->fd = make_socket(&target);
	if (connect(f->fd, &target.any, address_length(&target)) == -1)
		die("connect");
	if (!send_all(f->fd, &byte, 1))
		die("first byte");
}

static void
await_flow(const struct flow *f)
{
	char byte;

	if (!receive_all(f->fd, &byte, 1) || byte != PING)
		die("first byte");
}

/* A connection that has reached the server. */
static int
open_connection(void)
{
	struct flow f;

	connect_flow(&f);
	await_flow(&f);
	return f.fd;
}

static void
set_mode(int fd, enum mode mode)
{
	char byte = (char)mode;

	if (!send_all(fd, &byte, 1))
		die("send");
}

static uint64_t
deadline(const char *ms)
{
	return now() + (uint64_t)number(ms, 1000000) * 1000000;
}

static void
sample(uint64_t nanoseconds)
{
	if (sample_count == SAMPLES_MAX)
		fail("too many samples");
	samples[sample_count++] =
	    nanoseconds > UINT32_MAX ? UINT32_MAX : (uint32_t)nanoseconds;
}

static int
compare(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

/* Prints what share of the samples is below how many microseconds. */
static void
print_percentiles(void)
{
	if (sample_count == 0)
		fail("nothing came back");
	qsort(samples, sample_count, sizeof(*samples), compare);
	printf("p50=%.1f p99=%.1f ", samples[sample_count / 2] / 1e3,
	    samples[sample_count * 99 / 100] / 1e3);
}

static void *
send_blocks(void *argument)
{
	static union {
		struct block_header header;
		char data[BLOCK];
	} block;
	struct flow *f = argument;

	do {
		f->moved += BLOCK;
		block.header.last = now() >= f->until;
		block.header.total = f->moved;
		if (!send_all(f->fd, block.data, BLOCK))
			die("send");
	} while (!block.header.last);
	return NULL;
}

/* stop: this end says when it is enough. */
static void
receive_blocks(struct flow *f, bool stop)
{
	static union {
		struct block_header header;
		char data[BLOCK];
	} block;
	size_t filled = 0;
	ssize_t got;

	do {
		filled %= BLOCK;
		got = recv(f->fd, block.data + filled, BLOCK - filled, 0);
		if (got <= 0)
			die("receive");
		filled += (size_t)got;
		f->moved += (uint64_t)got;
		if (stop && now() >= f->until) {
			set_mode(f->fd, DOWN);
			stop = false;
		}
	} while (filled < BLOCK || !block.header.last);
	if (f->moved != block.header.total)
		fail("not as many bytes came as were sent");
}

/* up|down|both MS */
static void
run_bulk(char *const argv[])
{
	enum mode mode = strcmp(argv[0], "up") == 0     ? UP
			 : strcmp(argv[0], "down") == 0 ? DOWN
							: BOTH;
	struct flow up = {.fd = open_connection()}, down = {.fd = up.fd};
	double cpu = cpu_seconds(), elapsed;
	uint64_t begin = now(), confirmed;
	pthread_t thread;
	int error;

	up.until = down.until = deadline(argv[1]);
	set_mode(up.fd, mode);
	if (mode != DOWN) {
		error = pthread_create(&thread, NULL, send_blocks, &up);
		if (error != 0)
			fail("no thread");
	}
	if (mode != UP)
		receive_blocks(&down, mode == DOWN);
	if (mode != DOWN) {
		if (!receive_all(up.fd, &confirmed, sizeof(confirmed)))
			die("confirmation");
		pthread_join(thread, NULL);
		if (confirmed != up.moved)
			fail("not as many bytes arrived as were sent");
	}
	elapsed = seconds_since(begin);
	cpu = cpu_seconds() - cpu;
	printf("rate=%.2f cpu=%.3f bytes=%llu\n",
	    (double)(up.moved + down.moved) / elapsed / 1e6,
	    cpu / ((double)(up.moved + down.moved) / 1e9),
	    (unsigned long long)(up.moved + down.moved));
}

static void
round_trips(int fd, size_t size, uint64_t until, size_t enough)
{
	static char message[MESSAGE_MAX];
	uint64_t begin;

	sample_count = 0;
	do {
		begin = now();
		if (!send_all(fd, message, size) ||
		    !receive_all(fd, message, size))
			die("echo");
		sample(now() - begin);
	} while (begin < until || sample_count < enough);
}

/* SIZE MS */
static void
run_rtt(char *const argv[])
{
	size_t size = number(argv[0], MESSAGE_MAX);
	int fd = open_connection();
	double cpu;

	set_mode(fd, ECHO);
	round_trips(fd, size, 0, 5); /* to warm up */
	cpu = cpu_seconds();
	round_trips(fd, size, deadline(argv[1]), 1);
	cpu = cpu_seconds() - cpu;
	print_percentiles();
	printf(
	    "cpu=%.2f n=%zu\n", cpu * 1e6 / (double)sample_count, sample_count);
}

static void *
connect_often(void *argument)
{
	struct flow *f = argument;
	char byte;

	do {
		int fd = open_connection();

		/* Until the other side has seen the end, too. */
		if (shutdown(fd, SHUT_WR) == -1 || recv(fd, &byte, 1, 0) != 0)
			die("end");
		close(fd);
		f->moved++;
	} while (now() < f->until);
	return NULL;
}

/* THREADS MS */
static void
run_connect(char *const argv[])
{
	unsigned threads = number(argv[0], 64);
	struct flow flows[64] = {{0}};
	pthread_t ids[64];
	double cpu = cpu_seconds(), total = 0, elapsed;
	uint64_t begin = now(), until = deadline(argv[1]);

	for (unsigned i = 0; i < threads; i++) {
		flows[i].until = until;
		if (pthread_create(&ids[i], NULL, connect_often, &flows[i]) !=
		    0)
			fail("no thread");
	}
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(ids[i], NULL);
		total += (double)flows[i].moved;
	}
	elapsed = seconds_since(begin);
	cpu = cpu_seconds() - cpu;
	printf("rate=%.1f cpu=%.1f n=%.0f\n", total / elapsed,
	    cpu * 1e6 / total, total);
}

static struct flow *
open_many(unsigned count)
{
	struct flow *flows = calloc(count, sizeof(*flows));

	if (flows == NULL)
		die("calloc");
	for (unsigned i = 0; i < count + BATCH; i++) {
		if (i < count)
			connect_flow(&flows[i]);
		if (i >= BATCH)
			await_flow(&flows[i - BATCH]);
	}
	return flows;
}

static void
send_message(struct flow *f, const char *message, size_t size)
{
	f->sent_at = now();
	f->due = size;
	if (!send_all(f->fd, message, size))
		die("send");
}

/* Sends a message on each connection, and the next when it is back whole, until
 * the time is over; then waits for the rest: the slow ones count, too. */
static void
echo_until(
    int epoll, struct flow *flows, unsigned count, size_t size, uint64_t until)
{
	static char message[MESSAGE_MAX];
	struct epoll_event events[EVENTS_MAX];
	unsigned busy = count;
	int n;

	sample_count = 0;
	for (unsigned i = 0; i < count; i++)
		send_message(&flows[i], message, size);
	while (busy > 0) {
		n = epoll_wait(epoll, events, EVENTS_MAX, PATIENCE * 1000);
		if (n == 0)
			fail("nothing comes back");
		for (int i = 0; i < n; i++) {
			struct flow *f = events[i].data.ptr;
			ssize_t got = recv(f->fd, message, f->due, 0);

			if (got <= 0)
				die("echo");
			f->due -= (size_t)got;
			if (f->due > 0)
				continue;
			sample(now() - f->sent_at);
			if (now() < until)
				send_message(f, message, size);
			else
				busy--;
		}
	}
}

/* CONNECTIONS SIZE MS */
static void
run_echo(char *const argv[])
{
	unsigned count = number(argv[0], 100000);
	size_t size = number(argv[1], MESSAGE_MAX);
	struct flow *flows = open_many(count);
	int epoll = epoll_create1(EPOLL_CLOEXEC);
	double cpu, elapsed;
	uint64_t begin;

	for (unsigned i = 0; i < count; i++) {
		struct epoll_event event = {EPOLLIN, {.ptr = &flows[i]}};

		epoll_ctl(epoll, EPOLL_CTL_ADD, flows[i].fd, &event);
		set_mode(flows[i].fd, ECHO);
	}
	echo_until(epoll, flows, count, size, 0); /* to warm up */
	cpu = cpu_seconds();
	begin = now();
	echo_until(epoll, flows, count, size, deadline(argv[2]));
	elapsed = seconds_since(begin);
	cpu = cpu_seconds() - cpu;
	printf("rate=%.1f cpu=%.2f ", (double)sample_count / elapsed,
	    cpu * 1e6 / (double)sample_count);
	print_percentiles();
	printf("n=%zu\n", sample_count);
}

struct memory {
	char text[4096]; /* /proc/meminfo */
	double free;
	struct cost cost;
};

/* Pages that wait in lists of the processors are free, too, but /proc/meminfo
 * doesn't count them. */
static double
free_memory(const char *meminfo)
{
	static char text[1 << 16];
	double pages = 0;

	if (read_text(text, sizeof(text), ".", "zoneinfo")) {
		const char *at = text;

		while ((at = strstr(at, " count:")) != NULL)
			pages += field(at++, " count:");
	}
	return field(meminfo, "MemFree:") +
	       pages * (double)sysconf(_SC_PAGESIZE) / 1024;
}

/* When there is no change any more: what processes leave goes bit by bit. */
static void
measure_memory(struct memory *m)
{
	char refresh[16];
	double last;
	int tries = 0;

	do {
		last = m->free;
		pause_ms(SETTLE_MS);
		/* What the processors have counted comes together. */
		(void)read_text(
		    refresh, sizeof(refresh), "sys/vm", "stat_refresh");
		if (!read_text(m->text, sizeof(m->text), ".", "meminfo"))
			die("/proc/meminfo");
		m->free = free_memory(m->text);
	} while (++tries < SETTLE_TRIES &&
		 (m->free - last > SETTLED || last - m->free > SETTLED));
	m->cost = measure_cost(true);
}

static void
print_processes(
    const struct cost *before, const struct cost *after, unsigned count)
{
	printf("rss=%.2f pss=%.2f n=%u\n", (after->rss - before->rss) / count,
	    (after->pss - before->pss) / count, count);
}

/* CONNECTIONS. KiB for each of them, the client's and server's included. */
static void
run_idle(char *const argv[])
{
	static const struct {
		const char *label, *name;
		double sign;
	} fields[] = {
	    {"available", "MemAvailable:", -1},
	    {"slab", "\nSlab:", 1},
	    {"stacks", "KernelStack:", 1},
	    {"tables", "PageTables:", 1},
	    {"anonymous", "AnonPages:", 1},
	};
	static struct memory before, after;
	unsigned count = number(argv[0], 100000);

	close(open_connection());
	measure_memory(&before);
	(void)open_many(count);
	measure_memory(&after);
	for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++)
		printf("%s=%.2f ", fields[i].label,
		    fields[i].sign *
			(field(after.text, fields[i].name) -
			    field(before.text, fields[i].name)) /
			count);
	printf("all=%.2f ", (before.free - after.free) / count);
	print_processes(&before.cost, &after.cost, count);
}

/* CONNECTIONS. The same of processes alone: others use this kernel, too. */
static void
run_pss(char *const argv[])
{
	unsigned count = number(argv[0], 100000);
	struct cost before, after;

	close(open_connection());
	pause_ms(SETTLE_MS);
	before = measure_cost(true);
	(void)open_many(count);
	pause_ms(SETTLE_MS);
	after = measure_cost(true);
	print_processes(&before, &after, count);
}

static pid_t
spawn(char *const argv[])
{
	pid_t pid = fork();
	int null;

	if (pid == -1)
		die("fork");
	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	null = open("/dev/null", O_RDWR);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	execvp(argv[0], argv);
	_exit(127);
}

/* Waits until a program listens. */
static int
await_listener(pid_t pid, uint64_t begin)
{
	for (;;) {
		int fd = make_socket(&target);

		if (connect(fd, &target.any, address_length(&target)) == 0)
			return fd;
		close(fd);
		if (waitpid(pid, NULL, WNOHANG) != 0)
			fail("the program ended");
		if (seconds_since(begin) > PATIENCE)
			fail("the program does not listen");
	}
}

/* COUNT COMMAND...: until it listens or, without a target, has ended. */
static void
run_start(char *const argv[])
{
	bool listens = target.any.sa_family != AF_UNSPEC;
	unsigned count = number(argv[0], 1000);

	for (unsigned i = 0; i < count; i++) {
		uint64_t begin = now();
		pid_t pid = spawn(argv + 1);
		struct flow f = {
		    .fd = listens ? await_listener(pid, begin) : -1};
		char byte = PING;

		if (!listens)
			waitpid(pid, NULL, 0);
		else if (!send_all(f.fd, &byte, 1))
			die("first byte");
		else
			await_flow(&f);
		sample(now() - begin);
		if (!listens)
			continue;
		close(f.fd);
		kill(pid, SIGKILL);
		waitpid(pid, NULL, 0);
	}
	print_percentiles();
	printf("n=%u\n", count);
}

static const struct {
	const char *name, *usage;
	int arguments;
	void (*run)(char *const argv[]);
} modes[] = {
    {"bulk", "up|down|both MS", 2, run_bulk},
    {"rtt", "SIZE MS", 2, run_rtt},
    {"connect", "THREADS MS", 2, run_connect},
    {"echo", "CONNECTIONS SIZE MS", 3, run_echo},
    {"idle", "CONNECTIONS", 1, run_idle},
    {"pss", "CONNECTIONS", 1, run_pss},
    {"start", "COUNT COMMAND...", 2, run_start},
};

/* What forks for each connection would be in the way of what comes next. */
static void
await_rest(unsigned processes)
{
	uint64_t begin = now();

	for (int fd = STDERR_FILENO + 1; fd <= last_fd; fd++)
		close(fd);
	while (measure_cost(false).processes > processes &&
	       seconds_since(begin) < PATIENCE)
		pause_ms(20);
}

_Noreturn static void
usage(void)
{
	(void)fputs("usage: load server ADDRESS...\n", stderr);
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++)
		(void)fprintf(stderr,
		    "       load [-s SESSION]... %s ADDRESS %s\n",
		    modes[i].name, modes[i].usage);
	(void)fputs(
	    "ADDRESS is tcp:PORT or vsock:PORT; for start also none\n", stderr);
	exit(2);
}

int
main(int argc, char *argv[])
{
	unsigned processes;
	int option;

	while ((option = getopt(argc, argv, "+s:")) != -1) {
		if (option != 's' || session_count == SESSIONS_MAX)
			usage();
		sessions[session_count++] = (pid_t)number(optarg, INT32_MAX);
	}
	argc -= optind;
	argv += optind;
	if (argc >= 2 && strcmp(argv[0], "server") == 0)
		run_server(argv + 1);
	for (size_t i = 0; i < sizeof(modes) / sizeof(*modes); i++) {
		if (argc < 2 + modes[i].arguments ||
		    strcmp(argv[0], modes[i].name) != 0)
			continue;
		alarm(LIFETIME);
		if (strcmp(argv[1], "none") != 0)
			target = parse_address(argv[1]);
		processes = measure_cost(false).processes;
		modes[i].run(argv + 2);
		await_rest(processes);
		return fflush(stdout) == 0 ? 0 : 1;
	}
	usage();
}
