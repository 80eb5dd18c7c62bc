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

  # A section of a unit, the same for those without NixOS. What systemd adds up is
  # a list, even of one, so that other modules can add.
  read =
    file: section:
    let
      inherit (builtins) filter match split;
      text = builtins.readFile (../systemd + "/${file}");
      lines = split "\n" (lib.head (split "\n\\[" (lib.last (split "\\[${section}]\n" text))));
      setting = match "([A-Za-z]+)=(.*)";
      settings = filter lib.isList (map setting (filter builtins.isString lines));
      isLiteral = value: match "true|false|0|[1-9][0-9]*" value != null;
      addsUp = [
        "AmbientCapabilities"
        "CapabilityBoundingSet"
        "RestrictAddressFamilies"
        "SystemCallFilter"
      ];
      merge =
        key: pairs:
        let
          values = map lib.last pairs;
          value = lib.last values;
        in
        if builtins.elem key addsUp then
          values
        else if isLiteral value then
          builtins.fromJSON value
        else
          value;
    in
    lib.mapAttrs merge (builtins.groupBy lib.head settings);

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
      socketConfig = removeAttrs (read "${
        if flag == "ip-addr" then "tcp" else "vsock"
      }@.socket" "Socket") [ "ListenStream" ];
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
      startLimitIntervalSec = (read "program@.service" "Unit").StartLimitIntervalSec;
      # Otherwise NixOS stops the socket as well when it stops the service.
      stopIfChanged = false;
      serviceConfig =
        removeAttrs (read "program@.service" "Service") [ "EnvironmentFile" ]
        // {
          ExecStart = utils.escapeSystemdExecArgs (
            [ "${cfg.package}/bin/${instance.program}" ]
            ++ lib.mapAttrsToList (
              flag: value: if value == true then "--${flag}" else "--${flag}=${toString value}"
            ) (lib.filterAttrs (_: value: value != false) flags)
          );
        }
        // lib.optionalAttrs (cfg.package.compressed or false) { MemoryDenyWriteExecute = false; };
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
