/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs the parts of the strict group, and holds the helpers that several of
 * them need.
 */
#include "strict.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/vm_sockets.h>

#define CONNECTION_KEYS                                          \
	"ts level prog msg conn client upstream target up down " \
	"ms end"
/* Longer than a stream that moves at all ever pauses. */
#define STILL_MS 300

void
strict_guard_log(const struct program *p)
{
	assert_int_equal(fcntl(p->err, F_SETFL, O_RDWR | O_APPEND), 0);
}

struct bridge
strict_bridge(enum route route, char *const *extra)
{
	struct bridge b = {.route = route, .extra = extra};

	bridge_open(&b);
	strict_guard_log(b.first);
	strict_guard_log(b.last);
	return b;
}

unsigned
strict_first(const struct bridge *bridge)
{
	return bridge->client_is_tcp ? 1 : 2;
}

struct program *
strict_start(enum side side, const char *name, char *const *args)
{
	struct program *p = program_start(&(struct program_options){
	    .side = side, .name = name, .args = args});

	program_wait_log(p, " msg=listening ", 1);
	strict_guard_log(p);
	return p;
}

bool
strict_drop_privileges(const void *unused)
{
	(void)unused;
	return setgroups(0, NULL) == 0 && setgid(STRANGER) == 0 &&
	       setuid(STRANGER) == 0;
}

int
strict_bind_unix(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t length =
	    (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	memcpy(address.sun_path, path, strlen(path));
	if (path[0] == '@')
		address.sun_path[0] = '\0';
	if (fd == -1 || bind(fd, (struct sockaddr *)&address, length) == -1)
		fail_msg("no socket at %s: %s", path, strerror(errno));
	return fd;
}

bool
strict_forbid(const void *argument)
{
	const struct strict_forbidden *f = argument;
	struct sock_filter code[COUNT(f->calls) + 3] = {BPF_STMT(
	    BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr))};
	struct sock_fprog filter = {.filter = code};
	unsigned short n = f->count;

	for (unsigned short i = 0; i < n; i++)
		code[1 + i] =
		    (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K,
			(unsigned)f->calls[i], (unsigned char)(n - i), 0);
	code[1 + n] =
	    (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	code[2 + n] = (struct sock_filter)BPF_STMT(
	    BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)f->error);
	filter.len = (unsigned short)(n + 3);
	return prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

/* "multi on": glibc reads more than one line for a name. */
static const char own_etc[] =
    "mount -t tmpfs none /etc && echo \"hosts: $1\" >/etc/nsswitch.conf && "
    "printf '%s' \"$2\" >/etc/hosts && echo 'multi on' >/etc/host.conf && "
    "echo nameserver 127.0.0.1 >/etc/resolv.conf && shift 2 && exec \"$@\"";

struct program *
strict_start_with_etc(enum side side, const char *sources, const char *hosts,
    const char *name, char *const *args)
{
	char *all[16] = {"-m", "sh", "-c", harness_text("%s", own_etc), "sh",
	    harness_text("%s", sources), harness_text("%s", hosts),
	    harness_text("%s", program_path(name))};
	struct program *p;

	for (size_t count = 8; *args != NULL; args++, count++) {
		assert_true(count + 1 < COUNT(all));
		all[count] = *args;
	}
	p = program_start(&(struct program_options){
	    .side = side, .name = "unshare", .args = all});
	p->name = name;
	program_wait_log(p, " msg=listening ", 1);
	return p;
}

void
strict_set_hosts(const struct program *p, const char *hosts)
{
	/* In the program's own mount namespace. */
	FILE *file =
	    fopen(harness_text("/proc/%d/root/etc/hosts", (int)p->pid), "we");

	assert_non_null(file);
	assert_true(fputs(hosts, file) >= 0);
	assert_int_equal(fclose(file), 0);
}

size_t
strict_count(const char *text, char byte)
{
	size_t count = 0;

	while ((text = strchr(text, byte)) != NULL) {
		count++;
		text++;
	}
	return count;
}

/* The length of a value, quotes included; 0: it isn't one. */
static size_t
value_length(const char *value)
{
	size_t length;

	if (*value != '"')
		return strcspn(value, " \"=");
	length = 1 + strcspn(value + 1, "\"");
	return value[length] == '"' ? length + 1 : 0;
}

/* The keys of a logfmt line; NULL: it isn't one. */
static const char *
keys_of(const char *line)
{
	const char *keys = "";

	for (;;) {
		size_t length = strcspn(line, " \"="), value;

		if (length == 0 || line[length] != '=')
			return NULL;
		keys = harness_text("%s%s%.*s", keys, *keys == '\0' ? "" : " ",
		    (int)length, line);
		line += length + 1;
		value = value_length(line);
		if (value == 0)
			return NULL;
		line += value;
		if (*line == '\0')
			return keys;
		if (*line++ != ' ')
			return NULL;
	}
}

void
strict_expect_keys(const char *line, const char *keys)
{
	const char *found = keys_of(line);

	if (found == NULL)
		fail_msg("not logfmt: %s", line);
	assert_string_equal(found, keys);
}

/* Whether text is one of the words. */
static bool
is_one_of(const char *text, const char *words)
{
	size_t length = strlen(text);

	while (strncmp(words, text, length) != 0 ||
	       (words[length] != '|' && words[length] != '\0')) {
		words = strchr(words, '|');
		if (words == NULL)
			return false;
		words++;
	}
	return true;
}

void
strict_expect_value(const char *line, const char *key, const char *wanted)
{
	const char *value = program_log_value(line, key);

	if (value == NULL || !is_one_of(value, wanted))
		fail_msg("no %s=%s in: %s", key, wanted, line);
}

const char *
strict_expect_end(
    struct program *p, unsigned number, const char *end, const char *reason)
{
	const char *line = program_wait_connection(p, number);
	bool is_eof = strcmp(end, "eof") == 0;
	bool has_left = strcmp(end, "client-error") == 0 &&
			is_one_of(program_log_value(line, "reason"),
			    "Connection reset by peer|the peer gave up");

	strict_expect_keys(
	    line, reason == NULL ? CONNECTION_KEYS : CONNECTION_KEYS " reason");
	strict_expect_value(line, "prog", p->name);
	strict_expect_value(line, "end", end);
	strict_expect_value(line, "msg", is_eof ? "closed" : "failed");
	strict_expect_value(
	    line, "level", is_eof || has_left ? "info" : "warn");
	if (reason != NULL)
		strict_expect_value(line, "reason", reason);
	return line;
}

const char *
strict_own_name(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in in;
		struct sockaddr_in6 in6;
		struct sockaddr_vm vm;
	} a;
	socklen_t length = sizeof(a);
	char text[INET6_ADDRSTRLEN];

	assert_int_equal(getsockname(fd, &a.any, &length), 0);
	if (a.any.sa_family == AF_VSOCK) /* the CID may be any */
		return harness_text("1:%u", a.vm.svm_port);
	if (a.any.sa_family == AF_INET)
		inet_ntop(AF_INET, &a.in.sin_addr, text, sizeof(text));
	else
		inet_ntop(AF_INET6, &a.in6.sin6_addr, text, sizeof(text));
	/* The port is at the same place in in6. */
	return network_name(text, ntohs(a.in.sin_port));
}

static bool
is_pending(void *argument)
{
	return network_pending(*(const int *)argument);
}

int
strict_black_hole(
    enum side side, const char *address, uint16_t port, int *filler)
{
	int listener = network_tcp_listen(side, address, port);

	/* Linux takes one connection more than it was told. */
	assert_int_equal(listen(listener, 0), 0);
	*filler = network_tcp_connect(side, address, port);
	assert_true(harness_wait(is_pending, &listener));
	return listener;
}

void
strict_stop(const struct program *p)
{
	int status;

	assert_int_equal(kill(p->pid, SIGSTOP), 0);
	assert_int_equal(waitpid(p->pid, &status, WUNTRACED), p->pid);
	assert_true(WIFSTOPPED(status));
}

void
strict_continue(const struct program *p)
{
	assert_int_equal(kill(p->pid, SIGCONT), 0);
}

/* The CPU time that a program has used. */
static uint64_t
cpu_ms(const struct program *p)
{
	unsigned long user, system;

	assert_int_equal(sscanf(program_proc(p, "stat"),
			     "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u "
			     "%*u %*u %*u %lu %lu",
			     &user, &system),
	    2);
	return (user + system) * 1000 / (uint64_t)sysconf(_SC_CLK_TCK);
}

void
strict_expect_quiet(const struct program *p, int ms)
{
	uint64_t begin = harness_now_ms(), before, used;

	do {
		before = cpu_ms(p);
		poll(NULL, 0, ms);
		used = cpu_ms(p) - before;
	} while (
	    used > (uint64_t)ms / 5 && harness_now_ms() - begin < DEADLINE_MS);
	assert_in_range(used, 0, (uint64_t)ms / 5);
}

uint64_t
strict_fill(int fd)
{
	static const char bytes[65536];
	struct pollfd writable = {.fd = fd, .events = POLLOUT};
	uint64_t total = 0;

	while (poll(&writable, 1, STILL_MS) > 0) {
		ssize_t n =
		    send(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n == -1 && errno != EAGAIN)
			fail_msg("the connection ended: %s", strerror(errno));
		if (n > 0)
			total += (uint64_t)n;
	}
	return total;
}

void
strict_exchange(int client, int upstream, uint64_t size)
{
	struct flow *flows[4];

	flows[0] = flow_send(client, 1, size, 0);
	flows[1] = flow_send(upstream, 2, size, 0);
	flows[2] = flow_receive(upstream, 1, size);
	flows[3] = flow_receive(client, 2, size);
	for (size_t i = 0; i < COUNT(flows); i++)
		flow_finish(flows[i]);
}

void
strict_sort_ends(
    const struct bridge *b, int client, int upstream, int *tcp, int *vsock)
{
	*tcp = b->client_is_tcp ? client : upstream;
	*vsock = b->client_is_tcp ? upstream : client;
}

void
strict_expect_tcp_failed(const struct bridge *b, const char *reason)
{
	strict_expect_end(b->first, strict_first(b),
	    b->client_is_tcp ? "client-error" : "upstream-error", reason);
}

void
strict_expect_counts(const char *line, const char *counts)
{
	static const char *const keys[] = {"accepted", "active", "eof",
	    "client-error", "upstream-error", "no-resources", "idle-timeout",
	    "no-upstream", "no-target", "not-allowed", "stopped", "up", "down"};
	const char *all = "ts level prog msg";

	for (size_t i = 0; i < COUNT(keys); i++) {
		const char *wanted = program_log_value(counts, keys[i]);

		strict_expect_value(
		    line, keys[i], wanted == NULL ? "0" : wanted);
		all = harness_text("%s %s", all, keys[i]);
	}
	strict_expect_keys(line, harness_text("%s longest-ms", all));
	program_log_number(line, "longest-ms");
	strict_expect_value(line, "level", "info");
}

struct counting {
	struct program *program;
	const char *counts, *line;
};

/* Whether a line has at least as many bytes as are expected. */
static bool
has_moved(const struct counting *c, const char *key)
{
	return program_log_value(c->counts, key) == NULL ||
	       program_log_number(c->line, key) >=
		   program_log_number(c->counts, key);
}

/* Asks for one line. Who has received bytes may be quicker than the thread that
 * has sent and then counts them. */
static bool
has_counted(void *argument)
{
	struct counting *c = argument;
	unsigned before = program_count_log(c->program, " msg=counters ");

	assert_int_equal(kill(c->program->pid, SIGUSR1), 0);
	c->line = program_wait_log(c->program, " msg=counters ", before + 1);
	assert_int_equal(
	    program_count_log(c->program, " msg=counters "), before + 1);
	return has_moved(c, "up") && has_moved(c, "down");
}

const char *
strict_count_now(struct program *p, const char *counts)
{
	struct counting c = {.program = p, .counts = counts};

	harness_wait(has_counted, &c);
	strict_expect_counts(c.line, counts);
	return c.line;
}

struct crew {
	const struct program *program;
	unsigned long least;
};

static bool
has_threads(void *argument)
{
	const struct crew *c = argument;

	return program_threads(c->program) >= c->least;
}

void
strict_await_threads(struct program *p, unsigned long least)
{
	struct crew c = {p, least};

	if (!harness_wait(has_threads, &c))
		fail_msg("%lu threads, and not %lu", program_threads(p), least);
}

uint64_t
strict_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

void
strict_trip(int client, int upstream, struct strict_trips *trips)
{
	static const char bytes[64] = "honest";
	uint64_t begin = strict_now_ns();

	traffic_send(client, bytes, sizeof(bytes));
	traffic_expect(upstream, bytes, sizeof(bytes));
	traffic_send(upstream, bytes, sizeof(bytes));
	traffic_expect(client, bytes, sizeof(bytes));
	assert_true(trips->count < COUNT(trips->ns));
	trips->ns[trips->count++] = strict_now_ns() - begin;
}

static int
compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

unsigned
strict_mean_us(struct strict_trips *trips)
{
	size_t count = trips->count - trips->count / 10;
	uint64_t sum = 0;

	qsort(trips->ns, trips->count, sizeof(*trips->ns), compare);
	for (size_t i = 0; i < count; i++)
		sum += trips->ns[i];
	return (unsigned)(sum / count / 1000);
}

void
strict_expect_under_twice(const char *what, struct strict_trips *disturbed,
    struct strict_trips *undisturbed)
{
	unsigned means[2] = {
	    strict_mean_us(disturbed), strict_mean_us(undisturbed)};

	printf("# %s: round trip %u us, its twin's %u\n", what, means[0],
	    means[1]);
	if (PATIENCE == 1 && means[0] >= 2 * means[1])
		fail_msg(
		    "round trip: %u us, its twin's %u us", means[0], means[1]);
}

int
strict_run(void)
{
	return strict_usage_run() + strict_listen_run() + strict_log_run() +
	       strict_dial_run() + strict_target_run() + strict_header_run() +
	       strict_access_run() + strict_end_run() + strict_chain_run() +
	       strict_load_run() + strict_stop_run() + strict_service_run() +
	       strict_limits_run() + strict_confine_run() +
	       strict_hostile_run();
}
