/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a program can't do any more once it serves: tried from a thread of its
 * own, by tests/probe. What is expected depends on what the kernel says that
 * it has.
 */
#include "strict.h"

#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* The five, and vsock-to-ip once more, with a name. */
static const struct kind {
	char *name, *upstream[3];
	bool listens_on_tcp, reads;
} kinds[] = {
    {"ip-to-vsock", {"-v", "1:7"}, true, false},
    {"vsock-to-ip", {"-i", "127.0.0.1:7"}, false, false},
    {"vsock-to-ip", {"-i", "localhost:7"}, false, true},
    {"ip-to-vsock-transparent", {"-v", "1:7"}, true, false},
    {"vsock-to-ip-transparent", {NULL}, false, false},
    {"port-to-vsock-transparent", {"-v", "1"}, true, false},
};

/* Of Landlock; 0: this kernel has none. landlock_create_ruleset(2) by its
 * number, as headers may be older. */
static long
landlock_version(void)
{
	long version = syscall(444, NULL, 0, 1);

	return version == -1 ? 0 : version;
}

/* What the attempts of tests/probe need. */
struct place {
	char folder[32];
	int named, abstract; /* sockets */
	uint16_t port;
};

static const char *const contents[] = {
    "file", "remove", "created", "socket", "command"};

/* Everybody may do anything there. */
static void
make_place(struct place *p)
{
	const char *path;
	int fd;

	strcpy(p->folder, "/tmp/confine-XXXXXX");
	assert_non_null(mkdtemp(p->folder));
	assert_int_equal(chmod(p->folder, 0777), 0);
	for (size_t i = 0; i < 2; i++) {
		path = harness_text("%s/%s", p->folder, contents[i]);
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
		assert_int_equal(fchmod(fd, 0666), 0);
		assert_int_equal(write(fd, "x", 1), 1);
		close(fd);
	}
	assert_int_equal(
	    symlink("/bin/sh", harness_text("%s/command", p->folder)), 0);
	p->port = network_tcp_port();
	network_tcp_listen(HOST, "127.0.0.1", p->port);
	path = harness_text("%s/socket", p->folder);
	p->named = strict_bind_unix(path);
	assert_int_equal(chmod(path, 0777), 0);
	/* HOST's; the same but for the first character. */
	p->abstract = strict_bind_unix(harness_text("@%s", p->folder + 1));
}

static void
remove_place(struct place *p)
{
	for (size_t i = 0; i < COUNT(contents); i++)
		unlink(harness_text("%s/%s", p->folder, contents[i]));
	rmdir(harness_text("%s/folder", p->folder));
	assert_int_equal(rmdir(p->folder), 0);
	close(p->named);
	close(p->abstract);
}

/* One of a kind, and where it listens. */
struct served {
	struct program *program;
	uint16_t port;
	uint32_t vsock_port;
};

static struct served
start(const struct kind *k, struct program_options options, char *const *more)
{
	struct served s = {NULL, network_tcp_port(), network_vsock_port()};
	char *args[16] = {"--log-level", "debug",
	    k->listens_on_tcp ? "-i" : "-v",
	    k->listens_on_tcp ? harness_text("127.0.0.1:%u", s.port)
			      : harness_text("1:%u", s.vsock_port),
	    k->upstream[0], k->upstream[1]};
	size_t count = k->upstream[0] == NULL ? 4 : 6;

	for (; more != NULL && *more != NULL; more++)
		args[count++] = *more;
	options.side = HOST;
	options.name = k->name;
	options.args = args;
	s.program = program_start(&options);
	program_wait_log(s.program, " msg=listening ", 1);
	strict_guard_log(s.program);
	return s;
}

static int
connect_to(const struct kind *k, const struct served *s)
{
	return k->listens_on_tcp
		   ? network_tcp_connect(HOST, "127.0.0.1", s->port)
		   : network_vsock_connect(s->vsock_port);
}

static void
expect_attempts(const char *line, const struct kind *k, bool is_root)
{
	long v = landlock_version();
	int files = v >= 1 ? EACCES : 0, reading = k->reads ? 0 : files;
	const struct {
		const char *attempt;
		int error;
	} wanted[] = {{"read", reading}, {"list", reading}, {"map", reading},
	    {"write", files}, {"truncate", v >= 3 ? EACCES : 0},
	    {"create", files}, {"mkdir", files}, {"remove", files},
	    {"chmod", is_root ? 0 : EPERM}, {"listen", 0}, {"execute", files},
	    {"bind", v >= 4 ? EACCES : 0},
	    {"connect", v >= 4 && k->listens_on_tcp ? EACCES : 0}, {"udp", 0},
	    {"disconnect", 0}, {"path", v >= 9 && !k->reads ? EACCES : 0},
	    {"abstract", v >= 6 ? EPERM : 0},
	    {"signal", v >= 6 || !is_root ? EPERM : 0}, {"raw", EPERM},
	    {"vsock-port", EACCES}};

	for (size_t i = 0; i < COUNT(wanted); i++)
		strict_expect_value(line, wanted[i].attempt,
		    harness_text("%d", wanted[i].error));
}

/* Expects that a program's log says what holds. */
static void
expect_line(struct program *p, const char *capabilities, const char *bounding,
    long version)
{
	const char *line = program_wait_log(p, " msg=confined ", 1);

	strict_expect_keys(line, CONFINED_KEYS);
	strict_expect_value(line, "level", "debug");
	strict_expect_value(line, "descriptors", "held");
	strict_expect_value(line, "core", "held");
	strict_expect_value(line, "no-new-privs", "held");
	strict_expect_value(line, "bounding-set", bounding);
	strict_expect_value(line, "capabilities", capabilities);
	strict_expect_value(line, "files", version >= 1 ? "held" : "missing");
	strict_expect_value(line, "tcp", version >= 4 ? "held" : "missing");
	strict_expect_value(line, "scopes", version >= 6 ? "held" : "missing");
}

static void
expect_status(const struct program *p, bool is_root)
{
	static const char *const lines[] = {"\nCapInh:\t0000000000000000\n",
	    "\nCapPrm:\t0000000000000000\n", "\nCapEff:\t0000000000000000\n",
	    "\nCapAmb:\t0000000000000000\n", "\nNoNewPrivs:\t1\n",
	    "\nCapBnd:\t0000000000000000\n"};
	const char *status = program_proc(p, "status");

	for (size_t i = 0; i < COUNT(lines) - !is_root; i++)
		if (strstr(status, lines[i]) == NULL)
			fail_msg("no %s in: %s", lines[i], status);
}

static void
test_attempts(void **state)
{
	/* Broken: who breaks into a program can do more than the README says,
	 * or the log says that something holds which doesn't. */
	const struct kind *k = &kinds[(uintptr_t)*state];

	for (int is_root = 0; is_root < 2; is_root++) {
		struct place place;
		struct served s;
		char *env[3] = {NULL};

		make_place(&place);
		env[0] = harness_text("PROBE=%s", place.folder);
		env[1] = harness_text("PROBE_PORT=%u", place.port);
		s = start(k,
		    (struct program_options){.below = "probe",
			.env = env,
			.prepare = is_root ? NULL : strict_drop_privileges},
		    NULL);
		expect_line(s.program, "held", is_root ? "held" : "missing",
		    landlock_version());
		expect_status(s.program, is_root);
		close(connect_to(k, &s));
		expect_attempts(
		    program_wait_log(s.program, "msg=probe ", 1), k, is_root);
		program_wait_connection(s.program, 1);
		assert_int_equal(program_stop(s.program), 0);
		remove_place(&place);
	}
}

static void
test_private(void **state)
{
	/* Broken: another program of the same user reads what goes through. */
	struct served s = start(&kinds[0],
	    (struct program_options){.prepare = strict_drop_privileges}, NULL);
	struct stat status;

	(void)state;
	/* proc(5): of one that isn't dumpable, all is root's. */
	assert_int_equal(
	    stat(harness_text("/proc/%d", (int)s.program->pid), &status), 0);
	assert_int_equal(status.st_uid, STRANGER);
	assert_int_equal(
	    stat(harness_text("/proc/%d/mem", (int)s.program->pid), &status),
	    0);
	assert_int_equal(status.st_uid, 0);
}

static bool
enter_folder(const void *folder)
{
	return chdir(folder) == 0;
}

/* Waits until a process has died by a signal. Returns whether that left a core.
 */
static bool
leaves_core(struct program *p, int number)
{
	bool has_core;

	assert_int_equal(program_wait_end(p), 128 + number);
	has_core = WCOREDUMP(p->wait_status);
	p->wait_status = 0; /* was asked for: no fault */
	return has_core;
}

static void
test_no_core(void **state)
{
	/* Broken: what a program carries stays on a disk when it crashes. */
	static const int signals[] = {SIGABRT, SIGSEGV};
	const struct program_limit unlimited = {
	    RLIMIT_CORE, {RLIM_INFINITY, RLIM_INFINITY}};
	char folder[] = "/tmp/confine-XXXXXX";
	struct program_options options = {.prepare = enter_folder,
	    .argument = folder,
	    .limits = &unlimited,
	    .limit_count = 1};
	struct program_options other = options;
	bool has_cores;

	(void)state;
	if (PATIENCE > 1)
		harness_skip("sanitizers see to these signals, and to cores");
	assert_non_null(mkdtemp(folder));
	for (size_t i = 0; i < COUNT(signals); i++) {
		struct served s = start(&kinds[0], options, NULL);

		assert_non_null(strstr(program_proc(s.program, "limits"),
		    "\nMax core file size        0                    0   "));
		assert_int_equal(kill(s.program->pid, signals[i]), 0);
		assert_false(leaves_core(s.program, signals[i]));
		assert_int_equal(rmdir(folder), 0); /* as nothing is in it */
		assert_int_equal(mkdir(folder, 0700), 0);
	}
	/* Without what a program does, there would be one. */
	other.name = "sh";
	other.args = ARGS("-c", "kill -ABRT $$");
	has_cores = leaves_core(program_start(&other), SIGABRT);
	unlink(harness_text("%s/core", folder));
	rmdir(folder);
	if (!has_cores)
		harness_skip("this machine leaves no core files");
}

static void
test_few_descriptors(void **state)
{
	/* Broken: a program keeps more descriptors than it needs; or has too
	 * few for the connections that it allows. */
	struct bridge b = strict_bridge(
	    IP_TO_VSOCK, ARGS("--copy", "buffer", "--max-connections", "5"));
	int ends[5][2], wanted = IDLE_DESCRIPTORS - 1 + 2 * (5 + 10);

	(void)state;
	/* It listens a little earlier than that. */
	program_wait_log(b.first, " msg=listening ", 1);
	assert_non_null(strstr(program_proc(b.first, "limits"),
	    harness_text(
		"\nMax open files            %-20d %-20d ", wanted, wanted)));
	for (size_t i = 0; i < COUNT(ends); i++)
		bridge_pair(&b, &ends[i][0], &ends[i][1]);
	for (size_t i = 0; i < COUNT(ends); i++)
		traffic_echo(ends[i][0], ends[i][1]);
}

static void
test_low_ports(void **state)
{
	/* Broken: what needs root's powers to listen doesn't, or keeps them. */
	static char *const args[][5] = {
	    {"-v", "any:80", "-i", "127.0.0.1:7"},
	    {"-i", "127.0.0.1:80", "-v", "1:7"},
	};

	(void)state;
	for (size_t i = 0; i < COUNT(args); i++) {
		struct program *p = strict_start(
		    HOST, i == 0 ? "vsock-to-ip" : "ip-to-vsock", args[i]);

		expect_status(p, true);
		traffic_expect_end(
		    i == 0 ? network_vsock_connect(80)
			   : network_tcp_connect(HOST, "127.0.0.1", 80));
		program_wait_connection(p, 1);
	}
}

static void
test_filtered(void **state)
{
	/* Broken: a program that an older filter of system calls watches, which
	 * has run before, doesn't any more; or claims what it couldn't do. */
	static const int errors[] = {EPERM, ENOSYS};

	(void)state;
	for (size_t i = 0; i < COUNT(errors); i++) {
		/* What an older manager doesn't know, or leave to anybody. */
		const struct strict_forbidden forbidden = {
		    errors[i], 3, {444, 446, SYS_capset}};
		struct served s = start(&kinds[0],
		    (struct program_options){
			.prepare = strict_forbid, .argument = &forbidden},
		    NULL);

		expect_line(s.program, "missing", "held", 0);
		traffic_expect_end(connect_to(&kinds[0], &s));
		strict_expect_end(s.program, 1, "no-upstream",
		    program_log_value(
			program_wait_connection(s.program, 1), "reason"));
	}
}

/* Makes an answer of a question for one name: 127.0.0.1, and no IPv6 address.
 * Returns its size. */
static size_t
answer(uint8_t *message, size_t size)
{
	static const uint8_t record[] = {0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0,
	    4, 127, 0, 0, 1}; /* the name is that of the question */
	size_t end = 12;

	while (end < size && message[end] != 0)
		end += message[end] + 1u;
	end += 5; /* the last label, type and class: what follows goes */
	assert_true(end <= size);
	message[2] |= 0x84; /* an answer, by who knows */
	message[3] = 0x80;
	message[7] = message[end - 3] == 1; /* answers: for A */
	memset(message + 8, 0, 4);
	if (message[7] == 0)
		return end;
	memcpy(message + end, record, sizeof(record));
	return end + sizeof(record);
}

/* Answers questions until somebody connects to the listener. */
static void
resolve_until_connected(int resolver, int listener)
{
	struct pollfd fds[] = {{resolver, POLLIN, 0}, {listener, POLLIN, 0}};
	uint8_t message[1024];
	struct sockaddr_in from;
	socklen_t length;
	ssize_t n;

	while (fds[1].revents == 0) {
		if (poll(fds, 2, DEADLINE_MS) <= 0)
			fail_msg("nobody asks, nobody connects");
		if (fds[0].revents == 0)
			continue;
		length = sizeof(from);
		n = recvfrom(resolver, message, 512, 0,
		    (struct sockaddr *)&from, &length);
		assert_true(n > 12);
		n = (ssize_t)answer(message, (size_t)n);
		assert_int_equal(sendto(resolver, message, (size_t)n, 0,
				     (struct sockaddr *)&from, length),
		    n);
	}
}

/* Starts vsock-to-ip with a name, which this source of nsswitch.conf(5) knows.
 */
static struct served
start_resolving(const char *source, const char *name, uint16_t port)
{
	struct served s = {.vsock_port = network_vsock_port()};

	s.program = strict_start_with_etc(HOST, source, "", "vsock-to-ip",
	    ARGS("-v", harness_text("1:%u", s.vsock_port), "-i",
		harness_text("%s:%u", name, port)));
	return s;
}

static void
test_dns(void **state)
{
	/* Broken: names aren't resolved by who may do little else. */
	struct sockaddr_in name = {.sin_family = AF_INET,
	    .sin_port = htons(53),
	    .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	uint16_t port = network_tcp_port();
	int listener = network_tcp_listen(HOST, "127.0.0.1", port), resolver;
	struct served s = start_resolving("dns", "server.example", port);
	int client = network_vsock_connect(s.vsock_port), upstream;

	(void)state;
	network_enter(HOST);
	resolver = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(
	    bind(resolver, (struct sockaddr *)&name, sizeof(name)), 0);
	resolve_until_connected(resolver, listener);
	upstream = network_accept(listener);
	traffic_echo(client, upstream);
	close(resolver);
}

static void
test_module(void **state)
{
	/* Broken: what libc loads to resolve a name can't be loaded. */
	uint16_t port = network_tcp_port();
	int listener = network_tcp_listen(HOST, "127.0.0.1", port);
	struct served s = start_resolving("myhostname", "a.localhost", port);
	glob_t found = {0};
	int client;

	(void)state;
	if (strstr(program_proc(s.program, "maps"), "/libc.so.6") == NULL)
		harness_skip("these programs are static");
	if (glob("/usr/lib/*/libnss_myhostname.so.2", 0, NULL, &found) != 0)
		harness_skip("no nss-myhostname here");
	globfree(&found);
	assert_null(
	    strstr(program_proc(s.program, "maps"), "libnss_myhostname"));
	client = network_vsock_connect(s.vsock_port);
	traffic_echo(client, network_accept(listener));
	assert_non_null(
	    strstr(program_proc(s.program, "maps"), "libnss_myhostname"));
}

int
strict_confine_run(void)
{
	const struct CMUnitTest tests[] = {
	    TEST_WITH(test_attempts, "ip-to-vsock", 0),
	    TEST_WITH(test_attempts, "vsock-to-ip", 1),
	    TEST_WITH(test_attempts, "vsock-to-ip name", 2),
	    TEST_WITH(test_attempts, "ip-to-vsock-transparent", 3),
	    TEST_WITH(test_attempts, "vsock-to-ip-transparent", 4),
	    TEST_WITH(test_attempts, "port-to-vsock-transparent", 5),
	    TEST(test_private),
	    TEST(test_no_core),
	    TEST(test_few_descriptors),
	    TEST(test_low_ports),
	    TEST(test_filtered),
	    TEST(test_dns),
	    TEST(test_module),
	};

	return cmocka_run_group_tests_name("confine", tests, NULL, NULL);
}
