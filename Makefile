# SPDX-License-Identifier: Apache-2.0
# Builds, checks and installs the five programs. README.md has the targets.
#
#   make                         with the host's libc, dynamic, PIE
#   make STATIC=1 CC=musl-gcc    static
#   make O=DIR                   everything that is made goes to DIR
.SUFFIXES:
.DELETE_ON_ERROR:

ifneq ($(words $(CURDIR)),1)
$(error make cannot work in a folder with white space in its path: move \
	'$(CURDIR)')
endif

# The checkout may be somebody else's: who runs make in it trusts it already.
export GIT_CONFIG_COUNT = 1
export GIT_CONFIG_KEY_0 = safe.directory
export GIT_CONFIG_VALUE_0 = $(CURDIR)

CC = cc
AR = ar
READELF = readelf
O = build
STATIC =
PREFIX = /usr/local
BINDIR = $(PREFIX)/bin
MANDIR = $(PREFIX)/share/man
SYSTEMDUNITDIR =
DESTDIR =

# Yours to set. The time goes by in the kernel, so -Os.
CFLAGS = -Os -g
LDFLAGS =
WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wmissing-prototypes -Wvla \
	-Wshadow -Wformat=2 -Wno-format-nonliteral
HARDENING = -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
HARDENING_LINK = -Wl,-z,relro,-z,now,-z,noexecstack

# SANITIZE=address,undefined or SANITIZE=thread: with gcc's or clang's
# sanitizers, in a folder of its own. They don't see through FORTIFY.
GUEST_CACHE := $(O)/guest
comma = ,
ifneq ($(SANITIZE),)
override O := $(O)/sanitize-$(subst $(comma),-,$(SANITIZE))
SANITIZE_FLAGS = -fsanitize=$(SANITIZE) -fno-sanitize-recover=all \
	-fno-omit-frame-pointer
HARDENING = -fstack-protector-strong
endif

# What the source needs.
VERSION := $(shell cat VERSION)
PREFIX_MAPS := -ffile-prefix-map=$(CURDIR)=.
# Debian's musl-gcc knows no kernel headers; behind its own, the host's do.
KERNEL_HEADERS := $(shell printf \
	'\043include <sys/socket.h>\n\043include <linux/vm_sockets.h>\n' | \
	$(CC) -E - >/dev/null 2>&1 || echo -idirafter /usr/include \
	-idirafter /usr/include/$$($(CC) -print-multiarch))
BASE_CFLAGS := -std=c11 -D_GNU_SOURCE -DVERSION='"$(VERSION)"' -Isrc \
	-pthread -fno-common -ffunction-sections -fdata-sections \
	$(PREFIX_MAPS) $(KERNEL_HEADERS)
BASE_LDFLAGS := -pthread -Wl,--gc-sections -Wl,--build-id=none
ifneq ($(STATIC),)
# Small: no tables for exceptions, and no padding of the file to pages, for
# which read-only data may be executed.
BASE_CFLAGS += -fno-pie -fno-asynchronous-unwind-tables
BASE_LDFLAGS += -static -no-pie -Wl,-z,noseparate-code
else
BASE_CFLAGS += -fPIE
BASE_LDFLAGS += -pie
endif
ifneq ($(WERROR),)
WARNINGS += -Werror
endif
ALL_CFLAGS = $(BASE_CFLAGS) $(WARNINGS) $(HARDENING) $(SANITIZE_FLAGS) $(CFLAGS)
ALL_LDFLAGS = $(BASE_LDFLAGS) $(HARDENING_LINK) $(SANITIZE_FLAGS) $(CFLAGS) \
	$(LDFLAGS)

PROGRAMS = ip-to-vsock vsock-to-ip ip-to-vsock-transparent \
	vsock-to-ip-transparent port-to-vsock-transparent
MODULES = access address capacity confine connection copy log options preamble \
	proxy_header relay server service stream worker
PROGRAM_FILES = $(PROGRAMS:%=$(O)/%)
MODULE_OBJECTS = $(MODULES:%=$(O)/%.o)

all: $(PROGRAM_FILES)
ifneq ($(STATIC),)
	@for program in $^; do \
		case "$$($(READELF) -l $$program)" in *INTERP* | '') \
			echo "$$program is not static: it has an interpreter. If" \
			"it was built without STATIC=1: make clean" >&2; exit 1 ;; \
		esac; \
	done
endif

$(O)/%.o: src/%.c VERSION Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

$(O)/libproxy.a: $(MODULE_OBJECTS)
	rm -f $@
	$(AR) rcD $@ $(MODULE_OBJECTS)

$(PROGRAM_FILES): $(O)/%: $(O)/%.o $(O)/libproxy.a
	$(CC) -o $@ $^ $(ALL_LDFLAGS)

UNITS = $(DESTDIR)$(SYSTEMDUNITDIR)
install: all
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man7 \
		$(DESTDIR)$(MANDIR)/man8
	install -m 755 $(PROGRAM_FILES) $(DESTDIR)$(BINDIR)
	install -m 644 man/tcp-proxy.7 $(DESTDIR)$(MANDIR)/man7
	install -m 644 $(PROGRAMS:%=man/%.8) $(DESTDIR)$(MANDIR)/man8
ifneq ($(SYSTEMDUNITDIR),)
	install -d $(UNITS)
	for program in $(PROGRAMS); do \
		case $$program in vsock-*) listener=vsock ;; *) listener=tcp ;; esac; \
		install -m 644 systemd/$$listener@.socket $(UNITS)/$$program@.socket && \
		sed 's|/usr/local/bin/|$(BINDIR)/|' systemd/program@.service | \
			install -m 644 /dev/stdin $(UNITS)/$$program@.service || exit 1; \
	done
endif

uninstall:
	rm -f $(PROGRAMS:%=$(DESTDIR)$(BINDIR)/%)
	rm -f $(PROGRAMS:%=$(DESTDIR)$(MANDIR)/man8/%.8) \
		$(DESTDIR)$(MANDIR)/man7/tcp-proxy.7
ifneq ($(SYSTEMDUNITDIR),)
	rm -f $(foreach kind,service socket,$(PROGRAMS:%=$(UNITS)/%@.$(kind)))
endif

# The source as it was committed last: the same bytes from the same commit.
ARCHIVE = tcp-proxy-$(VERSION)
dist:
	@mkdir -p $(O)
	git -c tar.umask=022 archive --prefix=$(ARCHIVE)/ \
		-o $(O)/$(ARCHIVE).tar HEAD
	gzip -9nf $(O)/$(ARCHIVE).tar

clean:
	rm -rf $(O)

# Tests. Each unit test is linked with just the sources that it needs; the
# kernel's faults are injected with --wrap.
UNIT = $(MODULES)
UNIT_FILES = $(UNIT:%=$(O)/tests/unit/%)
NEEDS_access = access address
NEEDS_address = address
NEEDS_capacity = capacity
NEEDS_confine = confine
NEEDS_connection = connection options service access relay copy stream \
	address log worker
NEEDS_copy = copy
NEEDS_log = log
NEEDS_options = options access address log service
NEEDS_preamble = preamble stream address
NEEDS_proxy_header = proxy_header address
NEEDS_relay = relay copy stream address worker
NEEDS_server = server capacity connection options service access relay copy \
	stream address log worker
NEEDS_service = service
NEEDS_stream = stream address
NEEDS_worker = worker
WRAPS_capacity = open prlimit
WRAPS_confine = close log_line prctl prlimit syscall
WRAPS_connection = clock_gettime close connect free log_line malloc poll \
	pthread_mutex_unlock relay_run stream_complete \
	stream_connect stream_gone stream_original_destination stream_send \
	worker_start
WRAPS_copy = close fcntl mmap munmap pipe2 poll recv send setsockopt splice
WRAPS_log = clock_gettime poll write
WRAPS_preamble = clock_gettime poll recv
WRAPS_relay = clock_gettime connect poll recv send setsockopt shutdown splice \
	stream_delivered stream_error stream_gone worker_start
WRAPS_server = accept4 capacity_connections clock_gettime confine_process \
	eventfd getaddrinfo malloc open poll signalfd stream_listen stream_prepare \
	worker_start
WRAPS_worker = pthread_create pthread_detach sem_timedwait
WRAPS_stream = close connect freeaddrinfo getaddrinfo getpeername getsockname \
	getsockopt ioctl listen poll recv send setsockopt shutdown socket
INTEGRATION = bridge compat faults faults_busy harness main network program \
	strict strict_access strict_chain strict_confine strict_dial strict_end \
	strict_header strict_hostile strict_limits strict_listen strict_load strict_log \
	strict_service strict_stop strict_target strict_usage traffic web
FUZZ = access address options preamble
FUZZ_FILES = $(FUZZ:%=$(O)/tests/fuzz/%)
FUZZ_NEEDS_access = access address
FUZZ_NEEDS_address = address
FUZZ_NEEDS_options = $(MODULES) $(PROGRAMS:%=tests/fuzz/%)
FUZZ_NEEDS_preamble = preamble stream address
FUZZ_WRAPS_options = exit server_run socket
FUZZ_WRAPS_preamble = recv
INTEGRATION_FILE = $(O)/tests/integration/integration
# The programs once more, broken into.
PROBE_FILES = $(PROGRAMS:%=$(O)/probe/%)
# The programs once more, with calls that fail when a test says so.
FAULT_FILES = $(if $(SANITIZE),,$(PROGRAMS:%=$(O)/fault/%))
WRAPS_fault = accept4 calloc clock_gettime connect fcntl free getaddrinfo \
	getsockname getsockopt malloc mmap munmap pipe2 poll pthread_create \
	recv sem_timedwait send setsockopt shutdown socket splice write

# cmocka 2 calls deprecated what cmocka 1 has nothing else for.
$(O)/tests/%.o: tests/%.c VERSION Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -DCMOCKA_DISABLE_DEPRECATION_WARNINGS -MMD -MP -c -o $@ $<

# With _FORTIFY_SOURCE, a call of recv(2) may be one of __recv_chk(), and one of
# open(2) of __open_2(). Each is wrapped with its name, so that none gets by:
# one that tests/fortify.c lacks fails to link.
wrap = $(foreach name,$(1),-Wl,--wrap=$(name),--wrap=__$(name)_chk,--wrap=__$(name)_2)
$(UNIT_FILES) $(FUZZ_FILES) $(PROGRAMS:%=$(O)/fault/%): $(O)/tests/fortify.o

.SECONDEXPANSION:
$(UNIT_FILES): $(O)/tests/unit/%: $(O)/tests/unit/%.o \
		$$(addprefix $(O)/,$$(addsuffix .o,$$(NEEDS_$$*)))
	$(CC) -o $@ $^ $(call wrap,$(WRAPS_$*)) $(ALL_LDFLAGS) -lcmocka

$(PROGRAMS:%=$(O)/fault/%): $(O)/fault/%: $(O)/%.o $(O)/tests/fault/fault.o \
		$(O)/libproxy.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(call wrap,$(WRAPS_fault)) $(ALL_LDFLAGS)

$(PROBE_FILES): $(O)/probe/%: $(O)/%.o $(O)/tests/probe/probe.o $(O)/libproxy.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(call wrap,pthread_create) $(ALL_LDFLAGS)

$(FUZZ_FILES): $(O)/tests/fuzz/%: $(O)/tests/fuzz/%.o \
		$$(addprefix $(O)/,$$(addsuffix .o,$$(FUZZ_NEEDS_$$*)))
	$(CC) -o $@ $^ $(call wrap,$(FUZZ_WRAPS_$*)) $(ALL_LDFLAGS)

$(PROGRAMS:%=$(O)/tests/fuzz/%.o): $(O)/tests/fuzz/%.o: src/%.c VERSION Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Wno-missing-prototypes \
		-Dmain=main_$(subst -,_,$*) -MMD -MP -c -o $@ $<

$(INTEGRATION_FILE): $(INTEGRATION:%=$(O)/tests/integration/%.o)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) -lcmocka

$(O)/tests/loopback $(O)/tests/enclave/talk: %: %.o
	$(CC) -o $@ $^ $(ALL_LDFLAGS)

ifneq ($(SANITIZE),)
$(PROGRAM_FILES) $(PROBE_FILES) $(UNIT_FILES) $(FUZZ_FILES): \
	$(O)/tests/sanitizer.o
# What drives the programs is none of them, and would take most of the time.
$(INTEGRATION:%=$(O)/tests/integration/%.o): SANITIZE_FLAGS = -DPATIENCE=4
$(INTEGRATION_FILE): SANITIZE_FLAGS =
# In an emulator, a search for leaks takes a second; the unit tests do both.
RUN_SANITIZED = --timeout 3600 --env \
	ASAN_OPTIONS=detect_leaks=0:detect_stack_use_after_return=0:strict_string_checks=0
endif
ifneq ($(findstring thread,$(SANITIZE)),)
# The sanitizer's own data takes 800 KB of each thread's stack.
$(O)/worker.o $(O)/tests/unit/worker.o: ALL_CFLAGS += -DSTACK_SIZE=2097152
$(O)/tests/integration/program.o: SANITIZE_FLAGS += -DSANITIZER_THREADS=1
endif

# Where the black-box suite finds the programs, by the end they stand on.
PROXY_DIR = $(abspath $(O))
PROXY_DIR_HOST = $(PROXY_DIR)
PROXY_DIR_ENCLAVE = $(PROXY_DIR)
GROUP = all
TESTS =
WEB =
GUEST ?=
KERNEL ?=
export GUEST KERNEL
RUN = tools/run $(O)/tests/loopback --cache $(GUEST_CACHE) \
	$(addprefix --command ,nft ip busybox curl) \
	$(addprefix --add ,$(patsubst $(abspath $(O)),$(PROGRAM_FILES), \
	$(sort $(PROXY_DIR_HOST) $(PROXY_DIR_ENCLAVE))))

# What installs is a make of its own, because what it installs may be what this
# one lacks: each target for users first sees to its needs, all of them.
MAKE_QUIETLY = $(MAKE) --no-print-directory -s
# Two jobs, unless there are some already.
JOBS = -O $(if $(filter -j%,$(MAKEFLAGS)),,-j2)

check:
	@tools/setup build check vsock
	@$(MAKE_QUIETLY) check-unit
	@$(MAKE_QUIETLY) check-integration

check-unit:
	@tools/setup build check
	@tools/verdict $(MAKE_QUIETLY) $(JOBS) -k unit

check-integration:
	@tools/setup build check vsock
	@$(MAKE_QUIETLY) $(JOBS) all $(INTEGRATION_FILE) $(FAULT_FILES) \
		$(PROBE_FILES) $(O)/tests/loopback
	@tools/verdict $(RUN) --timeout 2400 $(RUN_SANITIZED) \
		$(addprefix --add ,$(INTEGRATION_FILE) $(FAULT_FILES) $(PROBE_FILES)) \
		--env GROUP=$(GROUP) \
		--env TESTS="$(TESTS)" --env PROXY_DIR_HOST=$(PROXY_DIR_HOST) \
		--env PROXY_DIR_ENCLAVE=$(PROXY_DIR_ENCLAVE) \
		$(if $(WEB),$(addprefix --env ,WEB=$(WEB) \
		LD_LIBRARY_PATH=$(LD_LIBRARY_PATH)) --add $(WEB)) -- \
		$(abspath $(INTEGRATION_FILE))

# With real web servers: fetched, because those that are installed are started.
check-web:
	@tools/setup build check vsock
	@tools/fetch web $(O)/web
	@LD_LIBRARY_PATH=$(abspath $(O))/web/lib $(MAKE_QUIETLY) \
		check-integration GROUP=web WEB=$(abspath $(O))/web

# Names in an enclave, by README.md's resolver: fetched for the same reason.
DNS = $(abspath $(O))/dns
check-dns:
	@tools/setup build check static vsock
	@tools/fetch unbound $(DNS)
	@$(MAKE_QUIETLY) all $(O)/tests/loopback
	@$(MAKE_QUIETLY) O=$(O)/enclave STATIC=1 CC=musl-gcc all
	@LD_LIBRARY_PATH=$(DNS)/lib $(RUN) --env LD_LIBRARY_PATH=$(DNS)/lib \
		--timeout 300 --command getent --add $(DNS) \
		--add $(O)/enclave/vsock-to-ip \
		--add README.md --add tests/dns -- \
		busybox unshare -n -m -p -f --mount-proc \
		tests/dns/run $(O) $(O)/enclave $(DNS)

# A leak is an error, too, but for what may belong to threads that still run.
# The exit status is none that a test expects of a child.
check-valgrind:
	@tools/setup build check valgrind
	@tools/verdict $(MAKE_QUIETLY) $(JOBS) -k unit EMULATOR="valgrind -q \
		--error-exitcode=99 --leak-check=full --show-leak-kinds=definite \
		--errors-for-leak-kinds=definite"

# How connections end, in every interleaving.
check-model:
	@tools/setup build model
	@tools/check-model $(O)/model

# The unit tests, without looking for what they need: for package builders.
# They mostly wait, so -j helps. EMULATOR: what runs them, if they are for
# another processor.
unit: $(UNIT:%=unit-%)
unit-%: $(O)/tests/unit/%
	@$(EMULATOR) $<

# Thousands of connections at once, for so long; SEED= repeats a run.
SOAK = load plan proxy soak
$(O)/tests/soak/soak: $(SOAK:%=$(O)/tests/soak/%.o)
	$(CC) -o $@ $^ $(ALL_LDFLAGS)

soak:
	@tools/setup build vsock
	@$(MAKE_QUIETLY) all $(O)/tests/loopback $(O)/tests/soak/soak
	@SOAK_SECONDS='$(SECONDS)' \
		SOAK_MINUTES='$(MINUTES)' SOAK_CONNECTIONS='$(CONNECTIONS)' \
		SOAK_SEED='$(SEED)' tools/soak $(O) $(PROXY_DIR) $(GUEST_CACHE)

# An enclave in an emulated host.
check-enclave:
	@tools/setup build static guest enclave
	@tools/fetch unbound $(DNS)
	@$(MAKE_QUIETLY) O=$(O)/enclave STATIC=1 CC=musl-gcc all \
		$(O)/enclave/tests/enclave/talk
	@tools/check-enclave $(O)/enclave $(GUEST_CACHE) $(DNS)

# Under the service manager of Debian's package. FLAGS= are the programs'.
check-supervisor:
	@tools/setup build check vsock supervisor
	@$(MAKE_QUIETLY) all $(O)/tests/loopback
	@FLAGS='$(FLAGS)' tools/check-supervisor $(O) $(GUEST_CACHE)

# The units that make install installs, under systemd.
check-systemd:
	@tools/setup build check guest systemd
	@$(MAKE_QUIETLY) install DESTDIR=$(O)/systemd PREFIX=/usr \
		SYSTEMDUNITDIR=/usr/lib/systemd/system
	@tools/check-systemd $(O)/systemd $(GUEST_CACHE)

# Each for SECONDS (60). What is found is kept, apart from what the source has.
fuzz:
	@tools/setup build fuzz
	@$(MAKE_QUIETLY) CC=clang SANITIZE=fuzzer,address,undefined fuzz-all

fuzz-all: $(FUZZ_FILES)
	@for t in $(FUZZ); do tools/fuzz $(O)/tests/fuzz/$$t $(or $(SECONDS),60) \
		$(O)/fuzz/$$t tests/fuzz/corpus/$$t || exit 1; done

check-musl:
	@tools/setup build static
	@tools/check-static $(O)/musl musl-gcc

check-aarch64:
	@tools/setup build aarch64
	@tools/check-static $(O)/aarch64 aarch64-linux-gnu-gcc qemu-aarch64

check-reproducible:
	@tools/setup build static reproducible
	@tools/check-reproducible

check-nix:
	@tools/setup build check lint static nix
	@NIXPKGS_LIB='$(NIXPKGS_LIB)' tools/check-nix $(O)/nix

# Fresh machines, in mount namespaces. ALL=1 takes hours.
check-fresh:
	@tools/setup fresh
	@tools/check-fresh $(O)/fresh

# Benchmark. The programs are static, as in an enclave, and for the stand-in for
# vsock dynamic, with glibc and with musl: it takes either's functions.
$(O)/load $(O)/empty: $(O)/%: bench/%.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $< $(ALL_LDFLAGS)

# glibc declares any type of address where a definition has one.
$(O)/vsock-stand-in.so: bench/vsock-stand-in.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -Wno-pedantic -fPIC -shared -nostdlib -o $@ $<

NATIVE = $(O)/bench/native
bench bench-smoke:
	@tools/setup build static bench $(if $(filter native,$(KERNEL)),,vsock)
	@$(MAKE_QUIETLY) O=$(O)/bench STATIC=1 CC=musl-gcc all \
		$(O)/bench/load $(O)/bench/empty $(O)/bench/tests/loopback
	@$(MAKE_QUIETLY) O=$(NATIVE) all $(NATIVE)/load $(NATIVE)/vsock-stand-in.so
	@$(MAKE_QUIETLY) O=$(NATIVE)/musl CC=musl-gcc all
	@$(if $(filter bench-smoke,$@),SMOKE=1) tools/bench $(O)/bench $(GUEST_CACHE)

lint:
	@tools/setup build lint
	@tools/lint

demo:
	@tools/setup build check vsock
	@$(MAKE_QUIETLY) all $(O)/tests/loopback
	@$(RUN) --timeout 300 --add tools/demo --add README.md -- tools/demo $(O)

.PHONY: all bench bench-smoke check check-aarch64 check-dns check-enclave \
	check-fresh check-integration check-model check-musl check-nix \
	check-reproducible check-unit check-supervisor check-systemd \
	check-valgrind check-web clean demo dist fuzz fuzz-all install lint soak \
	uninstall unit

-include $(shell find $(O) -name '*.d' 2>/dev/null)
