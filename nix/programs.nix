# SPDX-License-Identifier: Apache-2.0
# The five programs: what each is for, and the flag that names its listener.
{
  ip-to-vsock = {
    description = "Carry TCP connections to a vsock address";
    listener = "ip-addr";
  };
  vsock-to-ip = {
    description = "Carry vsock connections to a TCP address";
    listener = "vsock-addr";
  };
  ip-to-vsock-transparent = {
    description = "Carry redirected TCP connections, with their destination, to a vsock address";
    listener = "ip-addr";
  };
  vsock-to-ip-transparent = {
    description = "Carry vsock connections to the TCP address that each names";
    listener = "vsock-addr";
  };
  port-to-vsock-transparent = {
    description = "Carry redirected TCP connections to the same port of a CID";
    listener = "ip-addr";
  };
}
