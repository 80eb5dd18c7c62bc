/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A child writes to memory files, which share their offset with it; they are
 * read here by position, whenever a test asks.
 */
#include "harness.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef SANITIZER_THREADS /* the Makefile's, of each program */
#define SANITIZER_THREADS 0
#endif
#define PROGRAMS_MAX 64
#define ARGS_MAX 32
#define ENV_MAX 256

static const struct {
	const char *name;
	enum side side;
} house[] = {
    {"ip-to-vsock", HOST},
    {"vsock-to-ip", ENCLAVE},
    {"ip-to-vsock-transparent", ENCLAVE},
    {"vsock-to-ip-transparent", HOST},
    {"port-to-vsock-transparent", HOST},
};

static char folders[SIDES][4096];
static bool is_default;
static struct program *programs[PROGRAMS_MAX];
static size_t program_count;
static int faults;

/* Whether two paths are of one file. */
static bool
is_same(const char *a, const char *b)
{
	struct stat of_a, of_b;

	return stat(a, &of_a) == 0 && stat(b, &of_b) == 0 &&
	       of_a.st_dev == of_b.st_dev && of_a.st_ino == of_b.st_ino;
}

static void
set_folder(enum side side, const char *variable, const char *fallback)
{
	const char *folder = getenv(variable);

	if (folder == NULL || *folder == '\0')
		folder = getenv("PROXY_DIR");
	if (folder == NULL || *folder == '\0')
		folder = fallback;
	snprintf(folders[side], sizeof(folders[side]), "%s", folder);
}

void
program_set_folder(const char *folder)
{
	set_folder(HOST, "PROXY_DIR_HOST", folder);
	set_folder(ENCLAVE, "PROXY_DIR_ENCLAVE", folder);
	is_default =
	    is_same(folders[HOST], folder) && is_same(folders[ENCLAVE], folder);
}

bool
program_folder_is_default(void)
{
	return is_default;
}

/* The path of one of the five in a folder below theirs, or "." */
static const char *
path_below(const char *below, const char *name)
{
	for (size_t i = 0; i < sizeof(house) / sizeof(*house); i++)
		if (strcmp(name, house[i].name) == 0)
			return harness_text(
			    "%s/%s/%s", folders[house[i].side], below, name);
	return name;
}

const char *
program_path(const char *name)
{
	return path_below(".", name);
}

/* Of a child with a listener: it alone knows its process. */
static char listen_pid[32];

/* In the child: makes descriptor 3 what it is for a service. */
static void
take_listener(const struct program_options *o)
{
	if (o->listener != 0)
		dup3(o->listener, 3, 0);
	if (o->listener == 3) /* dup3() wants two */
		fcntl(3, F_SETFD, 0);
	snprintf(
	    listen_pid, sizeof(listen_pid), "LISTEN_PID=%d", (int)getpid());
}

/* In the child: everything up to the other program. Doesn't return. */
static void
become(const struct program *p, const struct program_options *o,
    const char *path, char *const *argv, char *const *env)
{
	int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int file = -1;

	/* Now, because prepare() may become a user who can't enter the folder.
	 */
	if (strchr(path, '/') != NULL)
		file = open(path, O_PATH | O_CLOEXEC);
	if (o->prepare != NULL && !o->prepare(o->argument))
		_exit(126);
	/* Should the suite die, no program survives it. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_DFL);
	for (size_t i = 0; i < o->limit_count; i++)
		if (setrlimit((__rlimit_resource_t)o->limits[i].resource,
			&o->limits[i].value) == -1)
			_exit(126);
	dup2(null, STDIN_FILENO);
	dup2(o->stdout_fd != 0 ? o->stdout_fd : p->out, STDOUT_FILENO);
	dup2(o->stderr_fd != 0 ? o->stderr_fd : p->err, STDERR_FILENO);
	take_listener(o);
	if (file != -1)
		execveat(file, "", argv, env, AT_EMPTY_PATH);
	execvpe(path, argv, env); /* by name; or a script, which needs a path */
	dprintf(STDERR_FILENO, "cannot run %s: %s\n", path, strerror(errno));
	_exit(127);
}

/* Appends a NULL-terminated list (or NULL) to another. */
static void
append(char **list, size_t size, size_t *count, char *const *more)
{
	for (; more != NULL && *more != NULL; more++) {
		assert_true(*count + 1 < size);
		list[(*count)++] = *more;
	}
	list[*count] = NULL;
}

static struct program *
new_program(const char *name)
{
	struct program *p = calloc(1, sizeof(*p));

	assert_non_null(p);
	assert_true(program_count < PROGRAMS_MAX);
	p->name = name;
	p->out = memfd_create("stdout", MFD_CLOEXEC);
	p->err = memfd_create("stderr", MFD_CLOEXEC);
	assert_true(p->out != -1 && p->err != -1);
	programs[program_count++] = p;
	return p;
}

struct program *
program_start(const struct program_options *options)
{
	struct program *p = new_program(options->name);
	const char *path = path_below(
	    options->below != NULL ? options->below : ".", options->name);
	char *argv[ARGS_MAX] = {harness_text("%s", options->name)};
	char *env[ENV_MAX];
	size_t argc = 1, count = 0;

	append(argv, ARGS_MAX, &argc, options->args);
	/* Of two settings of a variable, getenv(3) finds the first. */
	append(env, ENV_MAX, &count, options->env);
	if (options->listen_fds != NULL)
		append(env, ENV_MAX, &count,
		    (char *const[]){listen_pid,
			harness_text("LISTEN_FDS=%s", options->listen_fds),
			NULL});
	append(env, ENV_MAX, &count, environ);
	network_enter(options->side);
	p->pid = fork();
	if (p->pid == 0)
		become(p, options, path, argv, env);
	if (p->pid == -1) {
		p->ended = true;
		fail_msg("cannot fork: %s", strerror(errno));
	}
	return p;
}

/* Collects arguments up to NULL. */
static void
collect(char **args, va_list arguments)
{
	size_t count = 0;

	do
		assert_true(count < ARGS_MAX);
	while ((args[count++] = va_arg(arguments, char *)) != NULL);
}

struct program *
program_start_args(enum side side, const char *name, ...)
{
	char *args[ARGS_MAX];
	va_list arguments;

	va_start(arguments, name);
	collect(args, arguments);
	va_end(arguments);
	return program_start(&(struct program_options){
	    .side = side, .name = name, .args = args});
}

struct program *
program_run(const struct program_options *options)
{
	struct program *p = program_start(options);

	program_wait_end(p);
	return p;
}

struct program *
program_run_args(enum side side, const char *name, ...)
{
	char *args[ARGS_MAX];
	va_list arguments;

	va_start(arguments, name);
	collect(args, arguments);
	va_end(arguments);
	return program_run(&(struct program_options){
	    .side = side, .name = name, .args = args});
}

bool
program_runs(struct program *p)
{
	if (!p->ended && waitpid(p->pid, &p->wait_status, WNOHANG) == p->pid)
		p->ended = true;
	return !p->ended;
}

static bool
has_ended(void *argument)
{
	return !program_runs(argument);
}

static int
exit_status(const struct program *p)
{
	return WIFSIGNALED(p->wait_status) ? 128 + WTERMSIG(p->wait_status)
					   : WEXITSTATUS(p->wait_status);
}

int
program_wait_end(struct program *p)
{
	if (!harness_wait(has_ended, p))
		fail_msg("%s does not end; it printed:\n%s%s", p->name,
		    program_out(p), program_err(p));
	return exit_status(p);
}

/* Kills it for sure. */
static void
finish_off(struct program *p)
{
	if (p->ended)
		return;
	kill(p->pid, SIGKILL);
	if (waitpid(p->pid, &p->wait_status, 0) == p->pid)
		p->ended = true;
}

int
program_stop(struct program *p)
{
	if (program_runs(p)) {
		kill(p->pid, SIGTERM);
		if (!harness_wait(has_ended, p))
			finish_off(p);
	}
	return exit_status(p);
}

/* Whether it has died by a fault, as after a sanitizer's report, or is about
 * to. */
static bool
is_faulty(struct program *p)
{
	static const int signals[] = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV};
	const char *text = program_err(p);
	bool faulty = strstr(text, "Sanitizer") != NULL ||
		      strstr(text, "runtime error: ") != NULL;

	for (size_t i = 0; i < sizeof(signals) / sizeof(*signals); i++)
		faulty = faulty || exit_status(p) == 128 + signals[i];
	if (faulty) /* print_error() would cut it */
		fprintf(stderr, "%s is faulty, with status %d; it printed:\n%s",
		    p->name, exit_status(p), text);
	return faulty;
}

/* Prints a file of /proc, if it can be read; empty files as an empty line. */
static void
show_file(const char *path)
{
	char text[4096];
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n;

	if (fd == -1)
		return;
	fprintf(stderr, "%s: ", path);
	while ((n = read(fd, text, sizeof(text))) > 0)
		(void)fwrite(text, 1, (size_t)n, stderr);
	fprintf(stderr, "\n");
	close(fd);
}

/* Prints for what each thread of a process waits. */
static void
show_threads(pid_t pid)
{
	static const char *const files[] = {"wchan", "syscall", "stack"};
	char path[512];
	DIR *folder;
	struct dirent *entry;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	folder = opendir(path);
	while (folder != NULL && (entry = readdir(folder)) != NULL)
		for (size_t i = 0; i < sizeof(files) / sizeof(*files); i++) {
			snprintf(path, sizeof(path), "/proc/%d/task/%s/%s",
			    (int)pid, entry->d_name, files[i]);
			if (entry->d_name[0] != '.')
				show_file(path);
		}
	if (folder != NULL)
		closedir(folder);
}

void
program_show_all(void)
{
	static const char *const tables[] = {"tcp", "tcp6"};
	char path[64];

	fprintf(stderr, "threads of the suite:\n");
	show_threads(getpid());
	for (size_t i = 0; i < program_count; i++) {
		struct program *p = programs[i];

		if (!program_runs(p))
			continue;
		fprintf(stderr, "%s (%d) has printed:\n%s%sits threads:\n",
		    p->name, (int)p->pid, program_out(p), program_err(p));
		show_threads(p->pid);
		for (size_t j = 0; j < sizeof(tables) / sizeof(*tables); j++) {
			snprintf(path, sizeof(path), "/proc/%d/net/%s",
			    (int)p->pid, tables[j]);
			show_file(path);
		}
	}
}

void
program_stop_all(void)
{
	while (program_count > 0) {
		struct program *p = programs[--program_count];

		finish_off(p);
		faults += is_faulty(p);
		close(p->out);
		close(p->err);
		free(p->out_text);
		free(p->err_text);
		free(p);
	}
}

int
program_faults(void)
{
	int count = faults;

	faults = 0;
	return count;
}

struct listening {
	struct program *program;
	uint16_t tcp_port;
	uint32_t vsock_port;
	int fd;
};

static bool
tcp_listens_or_ended(void *argument)
{
	const struct listening *l = argument;

	return network_listens(l->program->pid, l->tcp_port) ||
	       !program_runs(l->program);
}

static bool
vsock_listens_or_ended(void *argument)
{
	struct listening *l = argument;

	l->fd = network_vsock_try(l->vsock_port);
	return l->fd != -1 || !program_runs(l->program);
}

static void
fail_not_listening(struct program *p)
{
	fail_msg("%s does not listen; it printed:\n%s%s", p->name,
	    program_out(p), program_err(p));
}

void
program_wait_tcp(struct program *p, uint16_t port)
{
	struct listening l = {.program = p, .tcp_port = port};

	if (!harness_wait(tcp_listens_or_ended, &l) || !program_runs(p))
		fail_not_listening(p);
}

void
program_wait_vsock(struct program *p, uint32_t port)
{
	struct listening l = {.program = p, .vsock_port = port, .fd = -1};

	if (!harness_wait(vsock_listens_or_ended, &l) || l.fd == -1)
		fail_not_listening(p);
	shutdown(l.fd, SHUT_WR);
	traffic_expect_end(l.fd);
	close(l.fd);
}

/* The contents of a file as a text, which replaces *text. */
static const char *
read_text(int fd, char **text)
{
	struct stat status;
	size_t size, done = 0;
	ssize_t n;

	if (fstat(fd, &status) == -1)
		fail_msg("fstat: %s", strerror(errno));
	size = (size_t)status.st_size;
	free(*text);
	*text = malloc(size + 1);
	assert_non_null(*text);
	while (done < size &&
	       (n = pread(fd, *text + done, size - done, (off_t)done)) > 0)
		done += (size_t)n;
	(*text)[done] = '\0';
	return *text;
}

const char *
program_out(struct program *p)
{
	return read_text(p->out, &p->out_text);
}

const char *
program_err(struct program *p)
{
	return read_text(p->err, &p->err_text);
}

/* How many entries a folder of /proc/<pid> has. */
static unsigned long
count_entries(const struct program *p, const char *name)
{
	struct dirent *entry;
	unsigned long count = 0;
	char path[64];
	DIR *folder;

	snprintf(path, sizeof(path), "/proc/%d/%s", (int)p->pid, name);
	folder = opendir(path);
	if (folder == NULL)
		fail_msg("%s has gone", p->name);
	while ((entry = readdir(folder)) != NULL)
		count += entry->d_name[0] != '.';
	closedir(folder);
	return count;
}

unsigned long
program_descriptors(const struct program *p)
{
	return count_entries(p, "fd");
}

unsigned long
program_threads(const struct program *p)
{
	unsigned long count = count_entries(p, "task");

	/* A sanitizer's is there after the first other. */
	return count > 1 ? count - SANITIZER_THREADS : count;
}

const char *
program_proc(const struct program *p, const char *name)
{
	FILE *file =
	    fopen(harness_text("/proc/%d/%s", (int)p->pid, name), "re");
	static char text[65536];
	size_t size;

	if (file == NULL)
		fail_msg("%s has gone", p->name);
	size = fread(text, 1, sizeof(text) - 1, file);
	text[size] = '\0';
	fclose(file);
	return text;
}

/* A number of /proc/PID/status, which is not 0; key: with colon. */
static unsigned long
status_number(const struct program *p, const char *key)
{
	const char *line =
	    strstr(program_proc(p, "status"), harness_text("\n%s", key));
	unsigned long number;

	assert_non_null(line);
	number = strtoul(line + 1 + strlen(key), NULL, 10);
	assert_true(number > 0);
	return number;
}

unsigned long
program_memory(const struct program *p)
{
	return status_number(p, "VmSize:");
}

unsigned long
program_waits(const struct program *p)
{
	return status_number(p, "voluntary_ctxt_switches:");
}

struct ceiling {
	const struct program *program;
	unsigned long (*count)(const struct program *p);
	unsigned long most, now;
};

static bool
is_below(void *argument)
{
	struct ceiling *c = argument;

	c->now = c->count(c->program);
	return c->now <= c->most;
}

unsigned long
program_wait_descriptors(const struct program *p, unsigned long most)
{
	struct ceiling c = {p, program_descriptors, most, 0};

	harness_wait(is_below, &c);
	return c.now;
}

unsigned long
program_wait_threads(const struct program *p, unsigned long most)
{
	struct ceiling c = {p, program_threads, most, 0};

	harness_wait(is_below, &c);
	return c.now;
}

unsigned long
program_wait_memory(const struct program *p, unsigned long most)
{
	struct ceiling c = {p, program_memory, most, 0};

	harness_wait(is_below, &c);
	return c.now;
}

/* What to look for in a log: a whole line with both texts, the nth of them. */
struct search {
	struct program *program;
	const char *text, *also; /* also: NULL or more text */
	unsigned nth;
	const char *line; /* the result, NULL: none */
	size_t length;
	unsigned count; /* of the lines found */
};

static bool
line_has(const char *line, size_t length, const char *text)
{
	return text == NULL || memmem(line, length, text, strlen(text)) != NULL;
}

static void
search(struct search *s)
{
	const char *line = program_err(s->program), *end;

	s->line = NULL;
	s->count = 0;
	for (; (end = strchr(line, '\n')) != NULL; line = end + 1) {
		size_t length = (size_t)(end - line);

		if (!line_has(line, length, s->text) ||
		    !line_has(line, length, s->also))
			continue;
		if (++s->count == s->nth) {
			s->line = line;
			s->length = length;
		}
	}
}

static bool
is_found_or_ended(void *argument)
{
	struct search *s = argument;
	bool ran = program_runs(s->program);

	search(s);
	return s->line != NULL || !ran;
}

static const char *
wait_line(struct search *s)
{
	harness_wait(is_found_or_ended, s);
	if (s->line == NULL)
		fail_msg("%s does not say '%s' (%u); it said:\n%s",
		    s->program->name, s->text, s->nth, program_err(s->program));
	return harness_text("%.*s", (int)s->length, s->line);
}

const char *
program_wait_log(struct program *p, const char *text, unsigned nth)
{
	return wait_line(
	    &(struct search){.program = p, .text = text, .nth = nth});
}

unsigned
program_count_log(struct program *p, const char *text)
{
	struct search s = {.program = p, .text = text};

	search(&s);
	return s.count;
}

const char *
program_wait_connection(struct program *p, unsigned number)
{
	/* Only the last line of a connection says how long it took. */
	return wait_line(&(struct search){.program = p,
	    .text = harness_text(" conn=%u ", number),
	    .also = " ms=",
	    .nth = 1});
}

const char *
program_log_value(const char *line, const char *key)
{
	const char *name = harness_text(" %s=", key);
	const char *found = strstr(harness_text(" %s", line), name);

	if (found == NULL)
		return NULL;
	found += strlen(name);
	if (*found == '"')
		return harness_text(
		    "%.*s", (int)strcspn(found + 1, "\""), found + 1);
	return harness_text("%.*s", (int)strcspn(found, " "), found);
}

uint64_t
program_log_number(const char *line, const char *key)
{
	const char *value = program_log_value(line, key);
	char *end;
	uint64_t number;

	if (value == NULL)
		fail_msg("no %s= in: %s", key, line);
	number = strtoull(value, &end, 10);
	if (!isdigit((unsigned char)*value) || *end != '\0')
		fail_msg("no number in %s=%s", key, value);
	return number;
}
