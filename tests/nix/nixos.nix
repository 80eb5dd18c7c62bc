# SPDX-License-Identifier: Apache-2.0
# A stand-in for lib.nixosSystem: services as options, and the units made of
# them, as text. Nothing can be booted.
{ lib, legacyPackages }:
{ modules }:
let
  inherit (builtins)
    concatStringsSep
    isBool
    isList
    replaceStrings
    toJSON
    ;
  inherit (lib) mkOption types;

  value = v: if isBool v then toJSON v else toString v;
  # A list is one line for each element.
  line = key: v: lib.concatMapStrings (w: "${key}=${value w}\n") (if isList v then v else [ v ]);
  section = name: set: "[${name}]\n" + concatStringsSep "" (lib.mapAttrsToList line set);
  text =
    {
      description,
      wantedBy,
      after,
      startLimitIntervalSec,
      serviceConfig,
    }:
    section "Unit" {
      Description = description;
      After = toString after;
      StartLimitIntervalSec = startLimitIntervalSec;
    }
    + section "Service" serviceConfig
    # NixOS makes links of this one.
    + section "Install" { WantedBy = toString wantedBy; };

  base =
    { config, ... }:
    {
      options = {
        nixpkgs.hostPlatform = mkOption { type = types.str; };
        systemd.services = mkOption { type = types.attrsOf types.anything; };
        systemd.units = mkOption { type = types.attrsOf types.anything; };
      };
      config.systemd.units = lib.mapAttrs' (
        name: service: lib.nameValuePair "${name}.service" { text = text service; }
      ) config.systemd.services;
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
