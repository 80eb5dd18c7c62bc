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
O = build
STATIC =
PREFIX = /usr/local
BINDIR = $(PREFIX)/bin
MANDIR = $(PREFIX)/share/man
DESTDIR =

# Yours to set.
CFLAGS = -O2 -g
LDFLAGS =
WARNINGS = -Wall -Wextra -Wpedantic -Wconversion -Wmissing-prototypes -Wvla \
	-Wshadow -Wformat=2 -Wno-format-nonliteral
HARDENING = -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
HARDENING_LINK = -Wl,-z,relro,-z,now,-z,noexecstack

# What the source needs.
VERSION := $(shell cat VERSION)
PREFIX_MAPS := -ffile-prefix-map=$(CURDIR)/=
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
BASE_CFLAGS += -fno-pie
BASE_LDFLAGS += -static -no-pie
else
BASE_CFLAGS += -fPIE
BASE_LDFLAGS += -pie
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

$(O)/libproxy.a: $(MODULE_OBJECTS)
	rm -f $@
	$(AR) rcD $@ $(MODULE_OBJECTS)

$(PROGRAM_FILES): $(O)/%: $(O)/%.o $(O)/libproxy.a
	$(CC) -o $@ $< $(O)/libproxy.a $(ALL_LDFLAGS)
ifneq ($(STATIC),)
	@if readelf -l $@ | grep -q INTERP; then \
		echo "$@ is not static: it has an interpreter" >&2; exit 1; fi
endif

clean:
	rm -rf $(O)

.PHONY: all clean

-include $(MODULE_OBJECTS:.o=.d) $(PROGRAM_FILES:=.d)
