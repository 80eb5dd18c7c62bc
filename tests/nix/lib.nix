# SPDX-License-Identifier: Apache-2.0
# Stand-ins for the functions of nixpkgs' lib that we use, by the same names.
let
  inherit (builtins)
    concatStringsSep
    elemAt
    functionArgs
    isFunction
    length
    map
    match
    readFile
    stringLength
    substring
    ;
  hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
in
rec {
  inherit (builtins)
    any
    attrNames
    concatMap
    head
    isList
    listToAttrs
    mapAttrs
    ;
  nameValuePair = name: value: { inherit name value; };
  genAttrs = names: f: listToAttrs (map (name: nameValuePair name (f name)) names);
  last = list: elemAt list (length list - 1);
  toList = value: if isList value then value else [ value ];
  mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
  filterAttrs =
    keep: set:
    removeAttrs set (concatMap (name: optional (!keep name set.${name}) name) (attrNames set));
  mapAttrs' = f: set: listToAttrs (mapAttrsToList f set);
  concatMapStrings = f: list: concatStringsSep "" (map f list);
  optional = condition: value: if condition then [ value ] else [ ];
  optionalAttrs = condition: set: if condition then set else { };
  optionalString = condition: text: if condition then text else "";
  fileContents = file: elemAt (match "(.*[^\n])\n*" (readFile file)) 0;

  licenses.asl20.spdxId = "Apache-2.0";
  platforms.linux = [
    "x86_64-linux"
    "aarch64-linux"
  ];

  # Of paths: each with all that is below.
  fileset = {
    unions = map toString;
    toSource =
      { root, fileset }:
      builtins.path {
        name = "source";
        path = root;
        filter =
          path: _:
          builtins.any (
            wanted: path == wanted || hasPrefix "${wanted}/" path || hasPrefix "${path}/" wanted
          ) fileset;
      };
  };

  # Like nixpkgs', this adds `override` to whatever set the function returns.
  callPackageWith =
    pkgs: function: arguments:
    let
      f = if isFunction function then function else import function;
      result = f (builtins.intersectAttrs (functionArgs f) pkgs // arguments);
    in
    result // { override = changes: callPackageWith pkgs f (arguments // changes); };

  mkOption = option: option // { _type = "option"; };
  literalMD = text: {
    _type = "literalMD";
    inherit text;
  };
  inherit (import ./types.nix { inherit evalModules nameValuePair; })
    mergeEqualOption
    mkOptionType
    types
    ;
  inherit (import ./modules.nix) evalModules;
}
