/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Succeeds where this kernel has vsock loopback: where the CID 1 can be bound.
 * Nothing is sent; a connection might leave the machine.
 */
#include <sys/socket.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

int
main(void)
{
	struct sockaddr_vm local = {.svm_family = AF_VSOCK,
	    .svm_cid = VMADDR_CID_LOCAL,
	    .svm_port = VMADDR_PORT_ANY};
	int fd = socket(AF_VSOCK, SOCK_STREAM, 0);

	if (fd == -1)
		return 1;
	return bind(fd, (struct sockaddr *)&local, sizeof(local)) == 0 ? 0 : 1;
}
