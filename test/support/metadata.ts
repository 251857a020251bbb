/** Dynamic metadata as Envoy keeps it: envoy.config.core.v3.Metadata, serialised. */
import protobuf from "protobufjs";

/** Namespaces, their keys, and what lies there. */
export type Metadata = { readonly [key: string]: Value };
type Value = Metadata | string | boolean | number | null;

const { root } = protobuf.parse(
  `syntax = "proto3";
   message Struct { map<string, Value> fields = 1; }
   message Value {
     oneof kind { int32 null_value = 1; double number_value = 2; string string_value = 3; bool bool_value = 4; Struct struct_value = 5; }
   }
   message Metadata { map<string, Struct> filter_metadata = 1; map<string, Any> typed_filter_metadata = 2; }
   message Any { string type_url = 1; bytes value = 2; }`,
  { keepCase: true },
);
const METADATA = root.lookupType("Metadata");

function kindOf(value: Value): object {
  if (value === null) return { null_value: 0 };
  if (typeof value === "string") return { string_value: value };
  if (typeof value === "boolean") return { bool_value: value };
  if (typeof value === "number") return { number_value: value };
  return { struct_value: structOf(value) };
}

function structOf(map: Metadata): object {
  return {
    fields: Object.fromEntries(Object.entries(map).map(([key, one]) => [key, kindOf(one)])),
  };
}

/** Returns the bytes that Envoy gives for `metadata`. A namespace that is no map is left out. */
export function formatMetadata(metadata: Metadata | Uint8Array): Uint8Array {
  if (metadata instanceof Uint8Array) return metadata;
  const namespaces = Object.entries(metadata).flatMap(([name, map]) =>
    typeof map === "object" && map !== null ? [[name, structOf(map)] as const] : [],
  );
  const any = { type_url: "example.org/any", value: Buffer.from("any") };
  return METADATA.encode({
    filter_metadata: Object.fromEntries(namespaces),
    typed_filter_metadata: namespaces.length > 0 ? { other: any } : {},
  }).finish();
}
