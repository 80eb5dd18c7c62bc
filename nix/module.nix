# SPDX-License-Identifier: Apache-2.0
# NixOS: any number of named instances of the five programs, each a service
# tcp-proxy-NAME with no more rights than it needs.
#
#   services.tcp-proxy.instances.web = {
#     program = "ip-to-vsock";
#     settings = { ip-addr = "0.0.0.0:443"; vsock-addr = "88:4000"; };
#   };
{
  config,
  lib,
  pkgs,
  utils,
  ...
}:
let
  inherit (lib) mkOption types;
  cfg = config.services.tcp-proxy;

  instanceOptions.options = {
    program = mkOption {
      type = types.enum (import ./programs.nix);
      description = "Which of the programs.";
    };
    settings = mkOption {
      type = types.attrsOf (types.either types.int types.str);
      default = { };
      example = {
        ip-addr = "0.0.0.0:443";
        vsock-addr = "88:4000";
        log-level = "warn";
      };
      description = "The program's flags, by their long names without the dashes.";
    };
  };

  service = name: instance: {
    description = "${instance.program} (${name})";
    wantedBy = [ "multi-user.target" ];
    after = [ "network.target" ];
    startLimitIntervalSec = 0; # never give up
    serviceConfig = {
      ExecStart = utils.escapeSystemdExecArgs (
        [ "${cfg.package}/bin/${instance.program}" ]
        ++ lib.mapAttrsToList (flag: value: "--${flag}=${toString value}") instance.settings
      );
      Type = "notify";
      Restart = "always";
      RestartSec = 1;
      RestartPreventExitStatus = 2; # a wrong command line stays wrong
      LimitNOFILE = 524288; # six a connection

      # A user of its own, and of root's powers only ports below 1024, which
      # vsock has, too.
      DynamicUser = true;
      AmbientCapabilities = "CAP_NET_BIND_SERVICE";
      CapabilityBoundingSet = "CAP_NET_BIND_SERVICE";
      NoNewPrivileges = true;

      # TCP and vsock; unix for name services and the journal.
      RestrictAddressFamilies = [
        "AF_INET"
        "AF_INET6"
        "AF_UNIX"
        "AF_VSOCK"
      ];
      DevicePolicy = "closed";
      DeviceAllow = "/dev/vsock r"; # tells the machine's own CID

      SystemCallArchitectures = "native";
      SystemCallFilter = [
        "@system-service"
        "~@privileged @resources"
      ];
      SystemCallErrorNumber = "EPERM";

      # UPX's stub needs a page that is first writable, then executable.
      MemoryDenyWriteExecute = !(cfg.package.compressed or false);
      LockPersonality = true;
      PrivateTmp = true;
      ProcSubset = "pid";
      ProtectClock = true;
      ProtectControlGroups = true;
      ProtectHome = true;
      ProtectHostname = true;
      ProtectKernelLogs = true;
      ProtectKernelModules = true;
      ProtectKernelTunables = true;
      ProtectProc = "invisible";
      ProtectSystem = "strict";
      RemoveIPC = true;
      RestrictNamespaces = true;
      RestrictRealtime = true;
      RestrictSUIDSGID = true;
      UMask = "0077";
    };
  };
in
{
  options.services.tcp-proxy = {
    package = mkOption {
      type = types.package;
      default = pkgs.callPackage ./package.nix { };
      defaultText = lib.literalMD "the programs of this flake, built with `pkgs`";
      description = "What the programs are taken from.";
    };
    instances = mkOption {
      type = types.attrsOf (types.submodule instanceOptions);
      default = { };
      description = "What to run, by name.";
    };
  };

  config.systemd.services = lib.mapAttrs' (
    name: instance: lib.nameValuePair "tcp-proxy-${name}" (service name instance)
  ) cfg.instances;
}
