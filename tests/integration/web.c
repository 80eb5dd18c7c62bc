/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Real programs at both ends: curl, and web servers, one of which answers an
 * upload before it has come, and all of which are told who their client is. As
 * they have to be fetched (to the folder $WEB), this group is not one of "all".
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

/* The folder of the servers. */
static const char *
web(void)
{
	const char *folder = getenv("WEB");

	assert_non_null(folder);
	return folder;
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

	program_wait_tcp(
	    program_start_args(side, harness_text("%s/nginx", web()), "-c",
		make_file(conf, strlen(conf), strlen(conf)), NULL),
	    port);
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

/* How a server is started, and what makes it tell its log who the client is,
 * as the README has it. %1 is a port, %2 the folder. */
static const struct reader {
	const char *command, *conf;
} readers[] = {
    {"nginx -c",
	"daemon off; master_process off; user root root; error_log stderr;\n"
	"pid /dev/shm/pid; events {}\n"
	"http {\n"
	"client_body_temp_path /dev/shm/1; proxy_temp_path /dev/shm/2;\n"
	"fastcgi_temp_path /dev/shm/3; uwsgi_temp_path /dev/shm/4;\n"
	"scgi_temp_path /dev/shm/5;\n"
	"log_format client 'client $remote_addr:$remote_port';\n"
	"server {\n"
	"listen 127.0.0.1:%1$u proxy_protocol;\n"
	"set_real_ip_from 127.0.0.1; real_ip_header proxy_protocol;\n"
	"access_log /proc/self/fd/1 client; return 204;\n"
	"}\n"
	"}\n"},
    {"haproxy -db -f", "global\n"
		       "log stdout format raw daemon\n"
		       "defaults\n"
		       "mode http\n"
		       "timeout client 9s\n"
		       "frontend web\n"
		       "bind 127.0.0.1:%1$u accept-proxy\n"
		       "log global\n"
		       "log-format \"client %%ci:%%cp\"\n"
		       "http-request return status 204\n"},
    {"apache2 -X -f", "ServerRoot %2$s\n"
		      "ServerName localhost\n"
		      "PidFile /dev/shm/pid\n"
		      "User #65534\n"
		      "Group #65534\n"
		      "LoadModule mpm_event_module mod_mpm_event.so\n"
		      "LoadModule authz_core_module mod_authz_core.so\n"
		      "LoadModule remoteip_module mod_remoteip.so\n"
		      "ErrorLog /proc/self/fd/2\n"
		      "Listen 127.0.0.1:%1$u\n"
		      "<VirtualHost 127.0.0.1:%1$u>\n"
		      "RemoteIPProxyProtocol On\n"
		      "CustomLog /proc/self/fd/1 \"client %%a:%%{remote}p\"\n"
		      "</VirtualHost>\n"},
};

static struct program *
start_reader(const struct reader *reader, enum side side, uint16_t port)
{
	const char *conf = harness_text(reader->conf, port, web());
	/* What it leaves there is gone with it. */
	struct program *p =
	    program_start_args(side, "unshare", "-m", "sh", "-c",
		harness_text("mount -t tmpfs none /dev/shm && exec %s/%s '%s'",
		    web(), reader->command,
		    make_file(conf, strlen(conf), strlen(conf))),
		NULL);

	p->name = reader->command;
	program_wait_tcp(p, port);
	return p;
}

struct mention {
	struct program *p;
	const char *line;
};

static bool
is_mentioned(void *argument)
{
	struct mention *m = argument;

	return strstr(program_out(m->p), m->line) != NULL;
}

/* A client of a service, and how it gets there. */
static const struct visit {
	enum route route;
	const char *from, *to;
} visits[] = {
    {CHAIN_FIXED, "127.0.0.5", "127.0.0.1"},
    {CHAIN_FIXED, TARGET_IPV6, "::1"},
    {CHAIN_PORT, "127.0.0.5", OTHER_IPV4},
    {CHAIN_PORT, TARGET_IPV6, OTHER_IPV6},
};

static void
test_client_address(void **state)
{
	/* Broken: a real service takes the proxy for its client, or doesn't
	 * understand it. */
	const struct reader *reader = *state;

	for (size_t i = 0; i < sizeof(visits) / sizeof(*visits); i++) {
		const struct visit *v = &visits[i];
		struct bridge b = {.route = v->route,
		    .target = v->to,
		    .no_upstream = true,
		    .has_header = true};
		struct mention m;
		struct program *curl;

		bridge_open(&b);
		m.p = start_reader(
		    reader, bridge_side(v->route, true), b.upstream_port);
		curl = program_run_args(bridge_side(v->route, false), "curl",
		    "--silent", "--show-error", "--max-time", "9",
		    "--interface", v->from, "--output", "/dev/null",
		    "--write-out", "%{local_port}",
		    harness_text("http://%s/",
			network_name(v->to, v->route == CHAIN_PORT
						? (uint16_t)b.vsock_port
						: b.listen_port)),
		    NULL);
		if (program_wait_end(curl) != 0)
			fail_msg("%s%s", program_err(curl), program_err(m.p));
		m.line =
		    harness_text("client %s:%s\n", v->from, program_out(curl));
		if (!harness_wait(is_mentioned, &m))
			fail_msg("no %s in %s", m.line, program_out(m.p));
	}
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
	    TEST_WITH(test_client_address, "nginx", &readers[0]),
	    TEST_WITH(test_client_address, "haproxy", &readers[1]),
	    TEST_WITH(test_client_address, "apache", &readers[2]),
	};

	return cmocka_run_group_tests_name("web", tests, NULL, NULL);
}
