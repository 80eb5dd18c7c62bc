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
  programs = import ./programs.nix;

  instanceOptions.options = {
    program = mkOption {
      type = types.enum (lib.attrNames programs);
      description = "Which of the programs.";
    };
    settings = mkOption {
      type = types.attrsOf (types.either types.bool (types.either types.int types.str));
      default = { };
      example = {
        ip-addr = "0.0.0.0:443";
        vsock-addr = "88:4000";
        log-level = "warn";
      };
      description = ''
        The program's flags, by their long names without the dashes. One that
        takes no value is `true`, or left out.
      '';
    };
    socketActivation = mkOption {
      type = types.bool;
      default = false;
      description = ''
        Whether systemd listens in the program's stead. Then nobody is refused
        while the service restarts, as `nixos-rebuild switch` makes it do when
        anything of it has changed. The listener's address, which is taken from
        `settings`, has to be numeric, but for vsock's words. When it changes,
        restart the socket `tcp-proxy-NAME.socket` by hand: NixOS leaves
        sockets alone.
      '';
    };
  };

  listener = instance: programs.${instance.program}.listener;

  # What a socket unit says for an address, which it doesn't resolve.
  listenStream =
    flag: address:
    let
      vsock = builtins.match "(any|local|host|[0-9]+):([0-9]+)" address;
      numeric = builtins.match "([0-9.]+|\\[[0-9a-fA-F:.]+]):[0-9]+" address != null;
      cid = lib.head vsock;
      words = {
        any = "";
        "4294967295" = "";
        local = "1";
        host = "2";
      };
    in
    if flag == "ip-addr" && numeric then
      address
    else if flag == "vsock-addr" && vsock != null then
      "vsock:${words.${cid} or cid}:${lib.last vsock}"
    else
      throw "tcp-proxy: systemd can't listen on ${address}";

  socket =
    name: instance:
    let
      flag = listener instance;
      address = instance.settings.${flag} or (throw "tcp-proxy-${name}: settings has no ${flag}");
    in
    {
      description = "${instance.program} (${name})";
      wantedBy = [ "sockets.target" ];
      listenStreams = [ (listenStream flag address) ];
    };

  service =
    name: instance:
    let
      flags =
        if instance.socketActivation then
          removeAttrs instance.settings [ (listener instance) ]
        else
          instance.settings;
    in
    {
      description = "${instance.program} (${name})";
      wantedBy = [ "multi-user.target" ];
      requires = lib.optional instance.socketActivation "tcp-proxy-${name}.socket";
      after = [ "network.target" ];
      startLimitIntervalSec = 0; # never give up
      # Otherwise NixOS stops the socket as well when it stops the service.
      stopIfChanged = false;
      serviceConfig = {
        ExecStart = utils.escapeSystemdExecArgs (
          [ "${cfg.package}/bin/${instance.program}" ]
          ++ lib.mapAttrsToList (
            flag: value: if value == true then "--${flag}" else "--${flag}=${toString value}"
          ) (lib.filterAttrs (_: value: value != false) flags)
        );
        Type = "notify";
        Restart = "always";
        RestartSec = 1;
        RestartPreventExitStatus = 2; # a wrong command line stays wrong
        LimitNOFILE = 524288; # six a connection

        # A user of its own, and of root's powers only ports below 1024, which
        # vsock has, too. Lists even of one, so that other modules can add.
        DynamicUser = true;
        AmbientCapabilities = [ "CAP_NET_BIND_SERVICE" ];
        CapabilityBoundingSet = [ "CAP_NET_BIND_SERVICE" ];
        NoNewPrivileges = true;

        # TCP and vsock; unix for name services and the journal.
        RestrictAddressFamilies = [
          "AF_INET"
          "AF_INET6"
          "AF_UNIX"
          "AF_VSOCK"
        ];
        DevicePolicy = "closed";
        DeviceAllow = [ ]; # of vsock, only enclave managers need one

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
        # No ProcSubset=pid: it hides /proc/sys, from which the limit on
        # connections is computed.
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

  named = lib.mapAttrs' (name: lib.nameValuePair "tcp-proxy-${name}");
in
{
  options.services.tcp-proxy = {
    # No mkPackageOption: nixpkgs has no package of this name to default to.
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

  config.systemd = {
    services = named (lib.mapAttrs service cfg.instances);
    sockets = named (
      lib.mapAttrs socket (lib.filterAttrs (_: instance: instance.socketActivation) cfg.instances)
    );
  };
}
