# SPDX-License-Identifier: Apache-2.0
# Stand-ins for the option types that we use. A type has `check`, which refuses
# values, and `merge`, which makes the option's value of all its definitions.
{ evalModules, nameValuePair }:
let
  inherit (builtins)
    all
    attrNames
    attrValues
    catAttrs
    concatMap
    elem
    head
    isAttrs
    isInt
    isString
    length
    listToAttrs
    ;

  type = check: {
    inherit check;
    merge =
      name: values: if length values == 1 then head values else throw "${name} is defined twice";
  };
in
rec {
  int = type isInt;
  str = type isString;
  anything = type (_: true);
  package = type (value: value.type or "" == "derivation");
  enum = values: type (value: elem value values);
  either = a: b: type (value: a.check value || b.check value);
  attrsOf = element: {
    check = value: isAttrs value && all element.check (attrValues value);
    merge =
      name: values:
      listToAttrs (
        map (key: nameValuePair key (element.merge "${name}.${key}" (catAttrs key values))) (
          concatMap attrNames values
        )
      );
  };
  submodule = module: {
    check = isAttrs;
    merge =
      name: values:
      (evalModules {
        inherit name;
        modules = [ module ] ++ map (config: { inherit config; }) values;
      }).config;
  };
}
