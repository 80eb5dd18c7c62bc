/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real programs at both ends: nginx, which answers an upload before it has
 * come, and curl. As nginx has to be fetched ($NGINX is its path), this group
 * is not one of "all".
 */
#include "harness.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TRIES 20
#define UPLOAD_SIZE 50000000
#define CURL_SEND_ERROR 55
#define ANSWER_SIZE 20000 /* has arrived before a reset can */

static const struct row {
	enum route route;
	bool is_paired; /* by a flag */
	/* Whether the server, when it has answered, goes on reading for a
	 * while, as by default; or closes at once, which is a reset. */
	bool lingers;
} rows[] = {{CHAIN_FIXED, false, true}, {CHAIN_FIXED, false, false},
    {CHAIN_FIXED, true, true}, {CHAIN_FIXED, true, false},
    {CHAIN_TRANSPARENT, false, true}, {CHAIN_TRANSPARENT, false, false}};

/* Makes a file that is gone after the test, this text and so many bytes, and
 * returns its path. */
static const char *
make_file(const void *text, size_t length, size_t size)
{
	int fd = memfd_create("web", MFD_CLOEXEC);

	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	assert_int_equal(pwrite(fd, text, length, 0), length);
	return harness_text("/proc/%d/fd/%d", (int)getpid(), fd);
}

/* Starts the server. Nothing is written to /tmp. */
static void
start_nginx(enum side side, const char *address, uint16_t port, bool lingers,
    const char *answer)
{
	const char *conf =
	    harness_text("daemon off; master_process off; user root root;\n"
			 "error_log stderr; pid %s; events {}\n"
			 "http {\n"
			 "access_log off; client_body_temp_path /tmp; "
			 "proxy_temp_path /tmp;\n"
			 "fastcgi_temp_path /tmp; uwsgi_temp_path /tmp; "
			 "scgi_temp_path /tmp;\n"
			 "client_max_body_size 1000; lingering_close %s;\n"
			 "server { listen %s:%u; error_page 413 /answer;\n"
			 "location = /answer { internal; alias %s; } }\n"
			 "}\n",
		make_file("", 0, 0), lingers ? "on" : "off; lingering_time 0",
		address, port, answer);
	const char *nginx = getenv("NGINX");
	struct program *p;

	assert_non_null(nginx);
	p = program_start_args(side, nginx, "-c",
	    make_file(conf, strlen(conf), strlen(conf)), NULL);
	program_wait_tcp(p, port);
}

struct uploads {
	enum side side;
	const char *url;
	unsigned whole;   /* answers */
	unsigned blind;   /* curl met the reset before it looked for one */
	const char *last; /* what curl said of one that wasn't */
};

/* Whether a program has printed exactly these bytes. */
static bool
has_printed(const struct program *p, const char *bytes, size_t size)
{
	static char printed[ANSWER_SIZE + 1];

	return pread(p->out, printed, size + 1, 0) == (ssize_t)size &&
	       memcmp(printed, bytes, size) == 0;
}

/* Without "Expect: 100-continue", curl sends at once. As fast as it can, it may
 * meet a reset before it has looked for an answer, also without a proxy. */
static void
upload(struct uploads *u, const char *file, const char *answer)
{
	struct program *curl;

	alarm(TEST_LIMIT_SECONDS); /* not for all uploads of a test */
	curl = program_run_args(u->side, "curl", "--silent", "--show-error",
	    "--max-time", "9", "--header", "Expect:", "--limit-rate", "20M",
	    "--upload-file", file, u->url, NULL);
	if (program_wait_end(curl) == 0 &&
	    has_printed(curl, answer, ANSWER_SIZE))
		u->whole++;
	else if (program_wait_end(curl) == CURL_SEND_ERROR)
		u->blind++;
	else
		u->last = harness_text("exit status %d, %s",
		    program_wait_end(curl), program_err(curl));
}

static void
test_refused_upload(void **state)
{
	/* Broken: what a server says of a request that it doesn't take arrives
	 * less often than without a proxy. */
	const struct row *row = *state;
	struct bridge b = {.route = row->route,
	    .no_upstream = true,
	    .extra = row->is_paired ? (char *[]){"--paired", NULL} : NULL};
	static char answer[ANSWER_SIZE];
	bool is_fixed = row->route == CHAIN_FIXED;
	const char *address = is_fixed ? "127.0.0.1" : TARGET_IPV4;
	const char *file = make_file("", 0, UPLOAD_SIZE);
	struct uploads direct = {0}, proxied = {0};

	bytes_fill(1, 0, answer, ANSWER_SIZE);
	bridge_open(&b);
	direct.side = bridge_side(row->route, true);
	direct.url = harness_text("http://%s:%u/", address, b.upstream_port);
	proxied.side = bridge_side(row->route, false);
	proxied.url = is_fixed
			  ? harness_text("http://127.0.0.1:%u/", b.listen_port)
			  : direct.url;
	start_nginx(direct.side, address, b.upstream_port, row->lingers,
	    make_file(answer, ANSWER_SIZE, ANSWER_SIZE));
	for (int i = 0; i < TRIES; i++) {
		upload(&direct, file, answer);
		upload(&proxied, file, answer);
	}
	print_message("of %u answers, %u were whole directly, and %u through "
		      "the proxies\n",
	    TRIES, direct.whole, proxied.whole);
	if (proxied.last != NULL)
		fail_msg("%s", proxied.last);
	assert_in_range(proxied.blind, 0, row->lingers ? 0 : TRIES / 2);
}

int
web_run(void)
{
	const struct CMUnitTest tests[] = {
	    TEST_WITH(test_refused_upload, "chain-fixed-lingers", &rows[0]),
	    TEST_WITH(test_refused_upload, "chain-fixed-closes", &rows[1]),
	    TEST_WITH(test_refused_upload, "paired-lingers", &rows[2]),
	    TEST_WITH(test_refused_upload, "paired-closes", &rows[3]),
	    TEST_WITH(test_refused_upload, "transparent-lingers", &rows[4]),
	    TEST_WITH(test_refused_upload, "transparent-closes", &rows[5]),
	};

	return cmocka_run_group_tests_name("web", tests, NULL, NULL);
}
