# SPDX-License-Identifier: Apache-2.0
# The five programs.
[
  "ip-to-vsock"
  "vsock-to-ip"
  "ip-to-vsock-transparent"
  "vsock-to-ip-transparent"
  "port-to-vsock-transparent"
]
