/* SPDX-License-Identifier: Apache-2.0 */
/* For LD_PRELOAD where the kernel has no vsock loopback: vsock sockets become
 * abstract UNIX ones, named by their ports. Programs run at the machine's own
 * speed, but without vsock's packets, copies and credit. */
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

/* Hides the C library's function of this name, which is "real". */
#define HIDE(type, name, arguments, ...)                                  \
	type name arguments                                               \
	{                                                                 \
		static __typeof__(&(name)) real;                          \
		if (real == NULL)                                         \
			real = (__typeof__(real))dlsym(RTLD_NEXT, #name); \
		__VA_ARGS__                                               \
	}
#define HIDE_NAMED(name)                                                      \
	HIDE(int, name, (int fd, const struct sockaddr *a, socklen_t size), { \
		struct sockaddr_vm vm = {.svm_family = AF_UNIX};              \
		if (KIND(fd) == OTHER)                                        \
			return real(fd, a, size);                             \
		vm.svm_port = ((const struct sockaddr_vm *)a)->svm_port;      \
		return real(fd, (struct sockaddr *)&vm, sizeof(vm));          \
	})
static enum { OTHER, OURS, SHUT } kinds[1 << 20]; /* of descriptors */
#define KIND(fd) kinds[(unsigned)(fd) % (1 << 20)]
HIDE_NAMED(bind)
HIDE_NAMED(connect)
HIDE(int, close, (int fd), { return KIND(fd) = OTHER, real(fd); })
HIDE(int, socket, (int family, int type, int protocol), {
	int fd = real(family == AF_VSOCK ? AF_UNIX : family, type, protocol);
	return KIND(fd) = family == AF_VSOCK ? OURS : OTHER, fd;
})
HIDE(int, getsockname, (int fd, struct sockaddr *a, socklen_t *size), {
	struct sockaddr_vm vm = {AF_VSOCK, .svm_cid = VMADDR_CID_LOCAL};
	if (KIND(fd) == OTHER)
		return real(fd, a, size);
	return *(struct sockaddr_vm *)a = vm, *size = sizeof(vm), 0;
})
HIDE(int, accept4, (int fd, struct sockaddr *a, socklen_t *size, int flags), {
	int new = real(fd, a, size, flags);
	KIND(new) = KIND(fd);
	if (a != NULL && KIND(new) == OURS)
		getsockname(new, a, size);
	return new;
})
HIDE(int, accept, (int fd, struct sockaddr *a, socklen_t *size),
    { return accept4(fd, a, size, 0); })
HIDE(int, getsockopt, (int fd, int level, int o, void *v, socklen_t *size), {
	if (level == SOL_SOCKET && o == SO_DOMAIN && KIND(fd) != OTHER)
		return *(int *)v = AF_VSOCK, 0;
	return real(fd, level, o, v, size);
})
HIDE(int, shutdown, (int fd, int how),
    { return KIND(fd) += KIND(fd) == OURS && how != SHUT_RD, real(fd, how); })
/* vsock hangs up only when both ends are shut down. epoll(7): with EPOLLIN. */
HIDE(int, poll, (struct pollfd * fds, nfds_t n, int ms), {
	int ready = real(fds, n, ms);
	for (nfds_t i = 0; i < n && ready > 0; i++)
		if (fds[i].revents & POLLHUP && KIND(fds[i].fd) == OURS)
			ready -= (fds[i].revents &= ~POLLHUP) == 0;
	return ready != 0 || ms == 0 ? ready : real(NULL, 0, 1); /* no spin */
})
HIDE(long, syscall, (long number, ...), {
	long x[6];
	va_list list;
	va_start(list, number);
	for (int i = 0; i < 6; i++)
		x[i] = va_arg(list, long);
	va_end(list);
	if (number == 444) /* Landlock's ruleset forbids abstract sockets */
		return errno = ENOSYS, -1;
	return real(number, x[0], x[1], x[2], x[3], x[4], x[5]);
})
