/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What any implementation of the five programs must do, and what a mix of two
 * implementations must do together: no log lines, no flags and no wire format
 * newer than the first release that there was. Most tests run once for each
 * program and each chain of two.
 */
#include "harness.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define KIB ((size_t)1024)
#define MIB (1024 * KIB)

/* Rows for a test whose *state is a route; see bridge.h, too. */
#define EACH_CHAIN(function)                                             \
	TEST_WITH(function, "chain-fixed", CHAIN_FIXED),                 \
	    TEST_WITH(function, "chain-transparent", CHAIN_TRANSPARENT), \
	    TEST_WITH(function, "chain-port", CHAIN_PORT)
#define EACH_ROUTE(function) EACH_PROGRAM(function), EACH_CHAIN(function)

static enum route
route_of(void **state)
{
	return (enum route)(uintptr_t)*state;
}

static struct bridge
open_bridge(void **state)
{
	struct bridge b = {.route = route_of(state)};

	bridge_open(&b);
	return b;
}

static void
test_echo(void **state)
{
	/* Broken: bytes don't get through at all, or only once. */
	struct bridge b = open_bridge(state);
	int client, upstream;

	for (int i = 0; i < 2; i++) {
		bridge_pair(&b, &client, &upstream);
		traffic_echo(client, upstream);
		traffic_echo(upstream, client);
		traffic_half_close(client);
		traffic_expect_eof(upstream);
		traffic_half_close(upstream);
		traffic_expect_eof(client);
	}
	bridge_expect_service(&b);
}

/* Sends streams both ways at once and expects them to come whole. */
static void
exchange(const struct bridge *b, uint64_t size, size_t chunk)
{
	struct flow *flows[4];
	int client, upstream;

	bridge_pair(b, &client, &upstream);
	flows[0] = flow_receive(upstream, 1, size);
	flows[1] = flow_receive(client, 2, size);
	flows[2] = flow_send(client, 1, size, chunk);
	flows[3] = flow_send(upstream, 2, size, chunk);
	for (size_t i = 0; i < 4; i++)
		flow_finish(flows[i]);
	close(client);
	close(upstream);
}

static void
test_64_mib_each_way(void **state)
{
	/* Broken: bytes are lost, changed, doubled or stuck under load. */
	struct bridge b = open_bridge(state);

	exchange(&b, 64 * MIB, 0);
	bridge_expect_service(&b);
}

static void
test_chunk_sizes(void **state)
{
	/* Broken: bytes are lost or changed at some sizes of what is read. */
	static const struct {
		uint64_t size;
		size_t chunk;
	} sizes[] = {{2000, 1}, {500 * KIB + 1, 1447}, {MIB + 7, 8193},
	    {4 * MIB + 4093, 0}};
	struct bridge b = open_bridge(state);

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		exchange(&b, sizes[i].size, sizes[i].chunk);
}

static void
test_client_half_closes(void **state)
{
	/* Broken: a request that ends with end-of-file gets no answer. */
	struct bridge b = open_bridge(state);
	int client, upstream;

	bridge_pair(&b, &client, &upstream);
	traffic_send_stream(client, 1, 100 * KIB);
	traffic_half_close(client);
	traffic_expect_stream(upstream, 1, 100 * KIB);
	traffic_expect_eof(upstream);
	traffic_send_stream(upstream, 2, 100 * KIB);
	traffic_half_close(upstream);
	traffic_expect_stream(client, 2, 100 * KIB);
	traffic_expect_eof(client);
	bridge_expect_service(&b);
}

static void
test_upstream_half_closes(void **state)
{
	/* Broken: what a client sends after the upstream's end is lost. */
	struct bridge b = open_bridge(state);
	int client, upstream;
	struct flow *sender;

	bridge_pair(&b, &client, &upstream);
	traffic_half_close(upstream);
	traffic_expect_eof(client);
	sender = flow_send(client, 1, MIB, 0);
	traffic_expect_stream(upstream, 1, MIB);
	traffic_expect_eof(upstream);
	flow_finish(sender);
	bridge_expect_service(&b);
}

/* A connection to 1.2.3.4:443 through ip-to-vsock-transparent. */
static void
open_golden(int *client, int *upstream)
{
	struct bridge b = {
	    .route = IP_TO_VSOCK_TRANSPARENT, .target = "1.2.3.4"};

	bridge_open(&b);
	*client = network_tcp_connect(ENCLAVE, "1.2.3.4", 443);
	*upstream = network_accept(b.listener);
}

static void
test_preamble_bytes(void **state)
{
	/* Broken: the other end, of whatever age, dials a wrong target. */
	int client, upstream;

	(void)state;
	open_golden(&client, &upstream);
	traffic_send(client, "data at once", 12);
	traffic_half_close(client);
	traffic_expect(upstream,
	    "\x04\x03\x02\x01\xbb\x01"
	    "data at once",
	    18);
	traffic_expect_eof(upstream);
}

static void
test_preamble_of_silent_client(void **state)
{
	/* Broken: protocols in which the server speaks first. */
	int client, upstream;

	(void)state;
	open_golden(&client, &upstream);
	traffic_expect(upstream, "\x04\x03\x02\x01\xbb\x01", 6);
	traffic_send(upstream, "hello", 5);
	traffic_expect(client, "hello", 5);
	traffic_half_close(client);
	traffic_expect_eof(upstream);
}

/* Where a preamble with 1,000 bytes of data after it is cut. */
struct cuts {
	const char *label;
	size_t at[8]; /* 0: the end of the list */
};

static const struct cuts one_piece = {"one-piece", {0}};
static const struct cuts four_two = {"4-2", {4, 6}};
static const struct cuts each_byte = {"each-byte", {1, 2, 3, 4, 5, 6}};
static const struct cuts across = {"across-data", {3, 7}};

static void
test_preamble_in_pieces(void **state)
{
	/* Broken: an older end's short writes, or data right behind. */
	const struct cuts *cuts = *state;
	struct bridge b = {.route = VSOCK_TO_IP_TRANSPARENT};
	uint8_t bytes[22 + 1000];
	size_t start, from = 0, size;
	int client, upstream;

	bridge_open(&b);
	start = bridge_preamble(TARGET_IPV4, b.upstream_port, bytes);
	bytes_fill(1, 0, bytes + start, 1000);
	size = start + 1000;
	client = bridge_try(&b);
	for (size_t i = 0; cuts->at[i] != 0; i++) {
		traffic_send(client, bytes + from, cuts->at[i] - from);
		from = cuts->at[i];
		/* That takes the program long enough to read this piece; when
		 * the preamble is whole, the test's connection comes first. */
		if (from < start)
			bridge_expect_service(&b);
	}
	traffic_send(client, bytes + from, size - from);
	upstream = bridge_accept(&b);
	traffic_expect_stream(upstream, 1, 1000);
	traffic_echo(client, upstream);
}

/* Connects to vsock-to-ip-transparent, sends a part of a preamble and ends. */
static void
expect_refusal(uint32_t port, const uint8_t *bytes, size_t size)
{
	int client = network_vsock_connect(port);

	traffic_send(client, bytes, size);
	traffic_half_close(client);
	traffic_expect_end(client);
	close(client);
}

static void
test_preamble_cut_short(void **state)
{
	/* Broken: half a preamble makes the program dial something. */
	uint32_t port = network_vsock_port();
	struct program *p = program_start_args(ENCLAVE,
	    "vsock-to-ip-transparent", "-v", harness_text("1:%u", port), NULL);
	uint16_t trap_port = network_tcp_port();
	int trap, client, caught;
	uint8_t bytes[22];

	(void)state;
	program_wait_vsock(p, port);
	trap = network_tcp_listen(ENCLAVE, "127.0.0.1", trap_port);
	network_redirect(ENCLAVE, NULL, trap_port);
	bridge_preamble("198.51.100.1", 0x1234, bytes);
	for (size_t size = 0; size < 6; size++) {
		expect_refusal(port, bytes, size);
		assert_false(network_pending(trap));
	}
	/* Whatever it dials is caught: */
	client = network_vsock_connect(port);
	traffic_send(client, bytes, 6);
	caught = network_accept(trap);
	traffic_echo(client, caught);
}

static void
test_upstream_refuses(void **state)
{
	/* Broken: clients hang when the upstream is down, or for ever after. */
	struct bridge b = {.route = route_of(state), .no_upstream = true};

	bridge_open(&b);
	for (int i = 0; i < 3; i++) {
		int client = bridge_connect(&b);

		traffic_expect_end(client);
		close(client);
	}
	bridge_listen(&b);
	bridge_expect_service(&b);
}

static void
test_client_resets(void **state)
{
	/* Broken: a client's crash leaves its upstream hanging. */
	struct bridge b = open_bridge(state);
	int client, upstream;

	bridge_pair(&b, &client, &upstream);
	traffic_echo(client, upstream);
	traffic_reset(client);
	traffic_expect_end(upstream);
	bridge_expect_service(&b);
}

static void
test_upstream_resets(void **state)
{
	/* Broken: an upstream's crash leaves its client hanging. */
	struct bridge b = open_bridge(state);
	int client, upstream;

	bridge_pair(&b, &client, &upstream);
	traffic_echo(client, upstream);
	traffic_reset(upstream);
	traffic_expect_end(client);
	bridge_expect_service(&b);
}

/*
 * Pours more than there is buffer for into one end until it comes out of the
 * other, which then vanishes.
 */
static void
pour_and_vanish(int from, int to)
{
	struct flow *flow = flow_send(from, 1, 4096 * MIB, 0);
	int error;

	traffic_expect_stream(to, 1, 100 * KIB);
	traffic_reset(to);
	error = flow_wait(flow);
	if (error != EPIPE && error != ECONNRESET)
		fail_msg("the sender was told: %s", strerror(error));
}

static void
test_client_vanishes(void **state)
{
	/* Broken: SIGPIPE kills the program, or the upstream blocks. */
	struct bridge b = open_bridge(state);
	int client, upstream;

	/* Which error the program meets first is a matter of luck. */
	for (int i = 0; i < 5; i++) {
		bridge_pair(&b, &client, &upstream);
		pour_and_vanish(upstream, client);
		close(upstream);
	}
	bridge_expect_service(&b);
}

static void
test_upstream_vanishes(void **state)
{
	/* Broken: SIGPIPE kills the program, or the client blocks. */
	struct bridge b = open_bridge(state);
	int client, upstream;

	/* Which error the program meets first is a matter of luck. */
	for (int i = 0; i < 5; i++) {
		bridge_pair(&b, &client, &upstream);
		pour_and_vanish(client, upstream);
		close(client);
	}
	bridge_expect_service(&b);
}

static void
test_slow_reader(void **state)
{
	/* Broken: a client that doesn't read delays others or loses data. */
	struct bridge b = open_bridge(state);
	int client, upstream;
	struct flow *sender;

	bridge_pair(&b, &client, &upstream);
	sender = flow_send(upstream, 1, 16 * MIB, 0);
	assert_true(traffic_readable(client, DEADLINE_MS));
	bridge_expect_service(&b);
	traffic_expect_stream(client, 1, 16 * MIB);
	traffic_expect_eof(client);
	flow_finish(sender);
}

#define MANY 200

static void
test_200_at_once(void **state)
{
	/* Broken: connections mix up their data, or so many don't fit. */
	struct bridge b = open_bridge(state);
	int clients[MANY], upstreams[MANY];

	for (unsigned i = 0; i < MANY; i++)
		bridge_pair(&b, &clients[i], &upstreams[i]);
	for (unsigned i = 0; i < MANY; i++) {
		traffic_send_stream(clients[i], i, 8 * KIB);
		traffic_send_stream(upstreams[i], MANY + i, 8 * KIB);
	}
	for (unsigned i = MANY; i-- > 0;) {
		traffic_expect_stream(upstreams[i], i, 8 * KIB);
		traffic_expect_stream(clients[i], MANY + i, 8 * KIB);
	}
	bridge_expect_service(&b);
}

#define VOLLEY_MAX 300

/* Connects all at once; answers in the order in which they come. */
static void
fire_volley(const struct bridge *b, unsigned size)
{
	int clients[VOLLEY_MAX], upstreams[VOLLEY_MAX];
	uint16_t number;

	for (unsigned i = 0; i < size; i++) {
		clients[i] = bridge_connect(b);
		number = (uint16_t)i;
		traffic_send(clients[i], &number, sizeof(number));
	}
	for (unsigned i = 0; i < size; i++) {
		upstreams[i] = bridge_accept(b);
		assert_int_equal(
		    traffic_receive(upstreams[i], &number, sizeof(number)),
		    sizeof(number));
		number ^= 0xffff;
		traffic_send(upstreams[i], &number, sizeof(number));
	}
	for (unsigned i = 0; i < size; i++) {
		number = (uint16_t)(i ^ 0xffff);
		traffic_expect(clients[i], &number, sizeof(number));
		close(clients[i]);
		close(upstreams[i]);
	}
}

static void
test_volleys(void **state)
{
	/* Broken: bursts overrun the program, or it leaks descriptors. */
	struct bridge b = open_bridge(state);
	/* Some implementation's vsock backlog is as short as 128. */
	unsigned size = b.first == b.last && b.client_is_tcp ? 300 : 100;
	unsigned long first, last;

	bridge_expect_service(&b);
	first = program_descriptors(b.first);
	last = program_descriptors(b.last);
	for (unsigned fired = 0; fired < 300; fired += size)
		fire_volley(&b, size);
	bridge_expect_service(&b);
	assert_in_range(program_wait_descriptors(b.first, first), 0, first);
	assert_in_range(program_wait_descriptors(b.last, last), 0, last);
}

static void
test_idle_connections(void **state)
{
	/* Broken: clients that say nothing keep others from being served. */
	struct bridge b = open_bridge(state);

	for (int i = 0; i < 50; i++)
		assert_int_not_equal(bridge_try(&b), -1);
	/* With a preamble to come, those are no connections upstream. */
	for (int i = 0; b.route != VSOCK_TO_IP_TRANSPARENT && i < 50; i++)
		bridge_accept(&b);
	bridge_expect_service(&b);
}

static void
test_spellings(void **state)
{
	/* Broken: command lines that people have in their scripts. */
	static const struct bridge_spelling spellings[] = {{false, NULL},
	    {true, NULL}, {true, "="}, {false, ""}, {false, "="}};

	for (size_t i = 0; i < sizeof(spellings) / sizeof(*spellings); i++) {
		struct bridge b = {
		    .route = route_of(state), .spelling = spellings[i]};

		bridge_open(&b);
		bridge_expect_service(&b);
		network_reset();
	}
}

static void
test_upstream_by_name(void **state)
{
	/* Broken: --ip-addr with a name. */
	struct bridge b = {.route = VSOCK_TO_IP, .upstream_host = "localhost"};

	(void)state;
	bridge_open(&b);
	bridge_expect_service(&b);
}

static void
test_help_and_version(void **state)
{
	/* Broken: asking a program what it is. */
	static const char *const flags[] = {"--help", "-h", "--version", "-V"};
	const char *name = bridge_name(route_of(state));

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++) {
		struct program *p =
		    program_run_args(HOST, name, flags[i], NULL);

		assert_int_equal(program_wait_end(p), 0);
		assert_string_equal(program_err(p), "");
		if (i < 2)
			assert_non_null(strstr(program_out(p), "--vsock"));
		else
			assert_non_null(strpbrk(program_out(p), "0123456789"));
	}
}

static void
test_bad_arguments(void **state)
{
	/* Broken: mistakes in a command line that nobody is told of. */
	static char *const ip[] = {"-i", "127.0.0.1:9999", NULL};
	static char *const vsock[] = {"-v", "1:9999", NULL};
	static char *const unknown[] = {
	    "-i", "127.0.0.1:9999", "-v", "1:9999", "--no-such-flag", NULL};
	static char *const no_value[] = {"-v", NULL};
	static char *const nothing[] = {NULL};
	static char *const *const lines[] = {
	    ip, unknown, no_value, nothing, vsock};
	size_t count = sizeof(lines) / sizeof(*lines);

	/* vsock-to-ip-transparent needs no more than --vsock-addr. */
	if (route_of(state) == VSOCK_TO_IP_TRANSPARENT)
		count--;
	for (size_t i = 0; i < count; i++) {
		struct program *p =
		    program_run(&(struct program_options){.side = HOST,
			.name = bridge_name(route_of(state)),
			.args = lines[i]});

		assert_int_not_equal(program_wait_end(p), 0);
		assert_string_equal(program_out(p), "");
		assert_string_not_equal(program_err(p), "");
	}
}

static void
test_not_redirected(void **state)
{
	/* Broken: a direct connection is taken for a redirected one. */
	bool by_port = route_of(state) == PORT_TO_VSOCK_TRANSPARENT;
	uint16_t port = network_tcp_port();
	/* Where port-to-vsock-transparent must not go: the port asked for. */
	uint32_t upstream = by_port ? port : network_vsock_port();
	int listener = network_vsock_listen(upstream);
	struct program *p =
	    program_start_args(BARE, bridge_name(route_of(state)), "-i",
		harness_text("127.0.0.1:%u", port), "-v",
		by_port ? "1" : harness_text("1:%u", upstream), NULL);

	program_wait_tcp(p, port);
	for (int i = 0; i < 3; i++) {
		int client = network_tcp_connect(BARE, "127.0.0.1", port);

		traffic_expect_end(client);
		assert_false(network_pending(listener));
	}
	assert_true(program_runs(p));
}

#define PAGE_SIZE (5 * MIB + 123)

/* Writes a file, and returns its contents, which the caller frees. */
static char *
write_page(const char *path)
{
	char *page = malloc(PAGE_SIZE);
	FILE *file = fopen(path, "we");

	assert_non_null(page);
	assert_non_null(file);
	bytes_fill(1, 0, page, PAGE_SIZE);
	assert_int_equal(fwrite(page, 1, PAGE_SIZE, file), PAGE_SIZE);
	assert_int_equal(fclose(file), 0);
	return page;
}

/* Fails the test unless a program has printed this and no more. */
static void
expect_printed(const struct program *p, const char *bytes, size_t size)
{
	char *printed = malloc(size + 1);

	assert_non_null(printed);
	assert_int_equal(pread(p->out, printed, size + 1, 0), size);
	assert_int_equal(memcmp(printed, bytes, size), 0);
	free(printed);
}

static void
test_web(void **state)
{
	/* Broken: the everyday use, a web client inside, a server outside. */
	struct bridge b = {.route = CHAIN_TRANSPARENT, .no_upstream = true};
	char folder[] = "/tmp/web.XXXXXX";
	struct program *server, *client;
	char *page;
	const char *path;

	(void)state;
	assert_non_null(mkdtemp(folder));
	path = harness_text("%s/page", folder);
	page = write_page(path);
	bridge_open(&b);
	server = program_start_args(HOST, "busybox", "httpd", "-f", "-p",
	    harness_text(TARGET_IPV4 ":%u", b.upstream_port), "-h", folder,
	    NULL);
	program_wait_tcp(server, b.upstream_port);
	client = program_run_args(ENCLAVE, "curl", "--silent", "--show-error",
	    "--fail", "--max-time", "9",
	    harness_text("http://" TARGET_IPV4 ":%u/page", b.upstream_port),
	    NULL);
	unlink(path);
	rmdir(folder);
	assert_string_equal(program_err(client), "");
	assert_int_equal(program_wait_end(client), 0);
	expect_printed(client, page, PAGE_SIZE);
	free(page);
}

int
compat_run(void)
{
	static const struct CMUnitTest tests[] = {
	    EACH_ROUTE(test_echo),
	    EACH_ROUTE(test_client_half_closes),
	    EACH_ROUTE(test_upstream_half_closes),
	    EACH_ROUTE(test_upstream_refuses),
	    EACH_ROUTE(test_client_resets),
	    EACH_ROUTE(test_upstream_resets),
	    EACH_ROUTE(test_client_vanishes),
	    EACH_ROUTE(test_upstream_vanishes),
	    EACH_ROUTE(test_idle_connections),
	    EACH_ROUTE(test_200_at_once),
	    EACH_ROUTE(test_volleys),
	    EACH_ROUTE(test_slow_reader),
	    EACH_PROGRAM(test_chunk_sizes),
	    EACH_CHAIN(test_64_mib_each_way),
	    TEST(test_preamble_bytes),
	    TEST(test_preamble_of_silent_client),
	    TEST_WITH(test_preamble_in_pieces, "one-piece", &one_piece),
	    TEST_WITH(test_preamble_in_pieces, "4-2", &four_two),
	    TEST_WITH(test_preamble_in_pieces, "each-byte", &each_byte),
	    TEST_WITH(test_preamble_in_pieces, "across-data", &across),
	    TEST(test_preamble_cut_short),
	    EACH_PROGRAM(test_spellings),
	    TEST(test_upstream_by_name),
	    EACH_PROGRAM(test_help_and_version),
	    EACH_PROGRAM(test_bad_arguments),
	    TEST_WITH(test_not_redirected, "ip-to-vsock-transparent",
		IP_TO_VSOCK_TRANSPARENT),
	    TEST_WITH(test_not_redirected, "port-to-vsock-transparent",
		PORT_TO_VSOCK_TRANSPARENT),
	    TEST(test_web),
	};

	return cmocka_run_group_tests_name("compat", tests, NULL, NULL);
}
