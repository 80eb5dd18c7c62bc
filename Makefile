# SPDX-License-Identifier: Apache-2.0
# Builds, checks and installs the five programs. README.md has the targets.
#
#   make                         with the host's libc, dynamic, PIE
#   make STATIC=1 CC=musl-gcc    static
#   make O=DIR                   everything that is made goes to DIR
.SUFFIXES:
.DELETE_ON_ERROR:

CC = cc
AR = ar
READELF = readelf
O = build
STATIC =
PREFIX = /usr/local
BINDIR = $(PREFIX)/bin
MANDIR = $(PREFIX)/share/man
DESTDIR =

# Yours to set. The time goes by in the kernel, so -Os.
CFLAGS = -Os -g
LDFLAGS =
WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wmissing-prototypes -Wvla \
	-Wshadow -Wformat=2 -Wno-format-nonliteral
HARDENING = -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
HARDENING_LINK = -Wl,-z,relro,-z,now,-z,noexecstack

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
ALL_CFLAGS = $(BASE_CFLAGS) $(WARNINGS) $(HARDENING) $(CFLAGS)
ALL_LDFLAGS = $(BASE_LDFLAGS) $(HARDENING_LINK) $(CFLAGS) $(LDFLAGS)

PROGRAMS = ip-to-vsock vsock-to-ip ip-to-vsock-transparent \
	vsock-to-ip-transparent port-to-vsock-transparent
MODULES = address copy log options preamble relay server stream
PROGRAM_FILES = $(PROGRAMS:%=$(O)/%)
MODULE_OBJECTS = $(MODULES:%=$(O)/%.o)

all: $(PROGRAM_FILES)

$(O)/%.o: src/%.c VERSION Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# It would touch all of the second thread's stack.
$(O)/relay.o: ALL_CFLAGS += -fno-stack-clash-protection

$(O)/libproxy.a: $(MODULE_OBJECTS)
	rm -f $@
	$(AR) rcD $@ $(MODULE_OBJECTS)

$(PROGRAM_FILES): $(O)/%: $(O)/%.o $(O)/libproxy.a
	$(CC) -o $@ $< $(O)/libproxy.a $(ALL_LDFLAGS)
ifneq ($(STATIC),)
	@case "$$($(READELF) -l $@)" in *INTERP* | '') \
		echo "$@ is not static: it has an interpreter" >&2; exit 1 ;; \
	esac
endif

install: $(PROGRAM_FILES)
	install -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man7 \
		$(DESTDIR)$(MANDIR)/man8
	install -m 755 $(PROGRAM_FILES) $(DESTDIR)$(BINDIR)
	install -m 644 man/tcp-proxy.7 $(DESTDIR)$(MANDIR)/man7
	install -m 644 $(PROGRAMS:%=man/%.8) $(DESTDIR)$(MANDIR)/man8

uninstall:
	rm -f $(PROGRAMS:%=$(DESTDIR)$(BINDIR)/%)
	rm -f $(PROGRAMS:%=$(DESTDIR)$(MANDIR)/man8/%.8) \
		$(DESTDIR)$(MANDIR)/man7/tcp-proxy.7

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
NEEDS_address = address
NEEDS_copy = copy
NEEDS_log = log
NEEDS_options = options address log
NEEDS_preamble = preamble address
NEEDS_relay = relay copy stream address
NEEDS_server = server options relay copy stream address log
NEEDS_stream = stream address
WRAPS_copy = close fcntl getsockopt mmap munmap pipe2 poll recv send \
	setsockopt splice
WRAPS_log = clock_gettime write
WRAPS_preamble = poll recv send
WRAPS_relay = connect poll pthread_create recv send setsockopt shutdown \
	splice
WRAPS_server = accept4 clock_gettime free malloc poll pthread_create \
	relay_run stream_connect stream_listen stream_local_cid \
	stream_original_destination
WRAPS_stream = connect freeaddrinfo getaddrinfo getsockname getsockopt ioctl \
	listen open setsockopt shutdown socket
INTEGRATION = bridge compat harness main network program strict \
	strict_dial strict_end strict_listen strict_load strict_log \
	strict_target strict_usage traffic
INTEGRATION_FILE = $(O)/tests/integration/integration

$(O)/tests/%.o: tests/%.c VERSION Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

.SECONDEXPANSION:
$(UNIT_FILES): $(O)/tests/unit/%: $(O)/tests/unit/%.o \
		$$(addprefix $(O)/,$$(addsuffix .o,$$(NEEDS_$$*)))
	$(CC) -o $@ $^ $(WRAPS_$*:%=-Wl,--wrap=%) $(ALL_LDFLAGS) -lcmocka

$(INTEGRATION_FILE): $(INTEGRATION:%=$(O)/tests/integration/%.o)
	$(CC) -o $@ $^ $(ALL_LDFLAGS) -lcmocka

$(O)/tests/loopback: $(O)/tests/loopback.o
	$(CC) -o $@ $^ $(ALL_LDFLAGS)

# Where the black-box suite finds the programs, by the end they stand on.
PROXY_DIR = $(abspath $(O))
PROXY_DIR_HOST = $(PROXY_DIR)
PROXY_DIR_ENCLAVE = $(PROXY_DIR)
GROUP = all
GUEST ?=
KERNEL ?=
COMMANDS = nft ip busybox curl
RUN = GUEST=$(GUEST) KERNEL=$(KERNEL) tools/run $(O)/tests/loopback \
	--cache $(O)/guest $(addprefix --add ,$(sort $(PROXY_DIR_HOST) \
	$(PROXY_DIR_ENCLAVE)) $(shell PATH=$$PATH:/usr/sbin:/sbin; \
	for c in $(COMMANDS); do command -v $$c; done))

# A make of its own, because what it installs may be what this one lacks.
check:
	@tools/setup build check
	@$(MAKE) --no-print-directory check-unit check-integration

# EMULATOR: what runs them, if they are for another processor.
check-unit: $(UNIT_FILES)
	@for t in $(UNIT_FILES); do $(EMULATOR) $$t || exit 1; done

check-integration: $(INTEGRATION_FILE) $(O)/tests/loopback all
	@tools/setup check
	@$(RUN) --timeout 1200 --add $(INTEGRATION_FILE) --env GROUP=$(GROUP) \
		--env PROXY_DIR_HOST=$(PROXY_DIR_HOST) \
		--env PROXY_DIR_ENCLAVE=$(PROXY_DIR_ENCLAVE) -- \
		$(abspath $(INTEGRATION_FILE))

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
	@tools/check-nix $(O)/nix

# Benchmark. The programs are static, as in an enclave.
$(O)/load $(O)/empty: $(O)/%: bench/%.c Makefile
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) -o $@ $< $(ALL_LDFLAGS)

bench bench-smoke:
	@tools/setup build static bench
	@$(MAKE) --no-print-directory -s O=$(O)/bench STATIC=1 CC=musl-gcc all \
		$(O)/bench/load $(O)/bench/empty $(O)/bench/tests/loopback
	@$(if $(filter bench-smoke,$@),SMOKE=1) tools/bench $(O)/bench $(O)/guest

lint:
	@tools/setup lint
	@tools/lint

demo:
	@tools/setup build check
	@$(MAKE) --no-print-directory -s all $(O)/tests/loopback
	@$(RUN) --timeout 300 --add tools/demo -- tools/demo $(O)

.PHONY: all bench bench-smoke check check-aarch64 check-integration check-musl check-nix \
	check-reproducible check-unit clean demo dist install lint uninstall

-include $(shell find $(O) -name '*.d' 2>/dev/null)
