# SPDX-License-Identifier: Apache-2.0
# A stand-in for lib.nixosSystem: services and sockets as options, and the units
# made of them, as text. Nothing can be booted.
{ lib, legacyPackages }:
{ modules }:
let
  inherit (builtins)
    concatStringsSep
    isBool
    replaceStrings
    toJSON
    ;
  inherit (lib) mkOption types;

  option = type: default: mkOption { inherit type default; };
  list = option (types.listOf types.str) [ ];
  settings = option (types.attrsOf (
    lib.mkOptionType {
      name = "systemd option";
      # Lists of several modules are put together.
      merge =
        loc: defs:
        if lib.any (def: lib.isList def.value) defs then
          lib.concatMap (def: lib.toList def.value) defs
        else
          lib.mergeEqualOption loc defs;
    }
  )) { };
  unit = {
    description = option types.str "";
    after = list;
    requires = list;
    wantedBy = list;
  };
  service = unit // {
    startLimitIntervalSec = mkOption { type = types.int; };
    stopIfChanged = option types.bool true;
    serviceConfig = settings;
  };
  socket = unit // {
    listenStreams = list;
    socketConfig = settings;
  };
  unitsOf = options: option (types.attrsOf (types.submodule { inherit options; })) { };

  value = v: if isBool v then toJSON v else toString v;
  # A list is one line for each element.
  line = key: v: lib.concatMapStrings (w: "${key}=${value w}\n") (lib.toList v);
  section = name: set: "[${name}]\n" + concatStringsSep "" (lib.mapAttrsToList line set);
  text =
    of: more: middle:
    section "Unit" (
      {
        Description = of.description;
        After = toString of.after;
        Requires = toString of.requires;
      }
      // more
    )
    + middle
    # NixOS makes links of this one.
    + section "Install" { WantedBy = toString of.wantedBy; };

  serviceText =
    of:
    text of { StartLimitIntervalSec = of.startLimitIntervalSec; } (
      section "Service" (
        lib.optionalAttrs (!of.stopIfChanged) { X-StopIfChanged = false; } // of.serviceConfig
      )
    );
  socketText =
    of: text of { } (section "Socket" ({ ListenStream = of.listenStreams; } // of.socketConfig));

  base =
    { config, ... }:
    {
      options = {
        nixpkgs.hostPlatform = mkOption { type = types.str; };
        systemd.services = unitsOf service;
        systemd.sockets = unitsOf socket;
        systemd.units = mkOption { type = types.attrsOf types.anything; };
      };
      config.systemd.units =
        lib.mapAttrs' (
          name: of: lib.nameValuePair "${name}.service" { text = serviceText of; }
        ) config.systemd.services
        // lib.mapAttrs' (
          name: of: lib.nameValuePair "${name}.socket" { text = socketText of; }
        ) config.systemd.sockets;
    };

  system = lib.evalModules {
    modules = [ base ] ++ modules;
    specialArgs = {
      inherit lib;
      pkgs = legacyPackages.${system.config.nixpkgs.hostPlatform};
      utils.escapeSystemdExecArgs =
        let
          escape = argument: replaceStrings [ "%" "$" ] [ "%%" "$$" ] (toJSON argument);
        in
        arguments: concatStringsSep " " (map escape arguments);
    };
  };
in
system
