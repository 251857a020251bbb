/** What the numbers in an entry mean, in words for people. record/FORMAT.md section 3 is where they are defined. */
import * as f from "../../record/fields.ts";

const ENGINES: Readonly<Record<number, string>> = {
  [f.ENGINE_RBAC]: "RBAC",
  [f.ENGINE_EXT_AUTHZ]: "ext_authz",
  [f.ENGINE_JWT]: "JWT",
  [f.ENGINE_RATE_LIMIT]: "rate limit",
  [f.ENGINE_MESHSEAL]: "this filter",
  [f.ENGINE_FAULT]: "an injected fault",
  [f.ENGINE_CSRF]: "CSRF",
};

const KNOWN_BY: Readonly<Record<number, string>> = {
  [f.PEER_NONE]: "not known",
  [f.PEER_MTLS]: "mutual TLS",
  [f.USER_JWT_VERIFIED]: "a JWT that the proxy verified",
  [f.USER_CLAIMED]: "claimed, not verified",
  [f.PEER_TUNNEL]: "mutual TLS of the tunnel",
};

const WORDS: Readonly<Record<number, Readonly<Record<number, string>>>> = {
  [f.F_PEER_AUTH]: KNOWN_BY,
  [f.F_USER_AUTH]: KNOWN_BY,
  [f.F_DENIED_BY]: ENGINES,
  [f.F_ALLOWED_BY]: ENGINES,
  [f.F_ANSWERED_BY]: {
    [f.ANSWERED_BY_NOBODY]: "nobody",
    [f.ANSWERED_BY_UPSTREAM]: "the upstream",
    [f.ANSWERED_BY_PROXY]: "the proxy itself",
  },
  [f.F_DECISION]: {
    [f.DECISION_ALLOWED]: "allowed",
    [f.DECISION_DENIED]: "denied",
    [f.DECISION_NOTHING_ALLOWED]: "denied: nothing allowed it",
    [f.DECISION_ERROR]: "an engine failed",
  },
  [f.F_DIRECTION]: { 1: "inbound", 2: "outbound" },
  [f.F_SOURCE_FORWARDED]: { 1: "the address is from a header, not from the connection" },
  [f.F_PATH_TEMPLATE]: { 1: "values are replaced" },
  [f.F_AUDIT]: { 1: "a policy asked for it" },
  [f.F_TRACE_FLAGS]: { 0: "not sampled", 1: "sampled" },
  [f.F_GAP_CAUSE]: {
    [f.GAP_BUFFER_FULL]: "the buffer was full",
    [f.GAP_HOST_FAILED]: "the host failed a call",
    [f.GAP_BEST_EFFORT]: "best effort gave way",
  },
  [f.F_ABANDONED_CAUSE]: {
    [f.ABANDONED_MALFORMED]: "malformed",
    [f.ABANDONED_FORK]: "fork",
    [f.ABANDONED_HOLE]: "hole",
    [f.ABANDONED_ROLLBACK]: "rollback",
    [f.ABANDONED_TOO_LARGE]: "too large",
  },
};

/** Envoy's response flags by bit (source/common/stream_info/utility.h): the letters that its access logs print. */
const FLAGS: readonly string[] =
  "LH UH UT LR UR UF UC UO NR DI FI RL UAEX RLSE DC URX SI IH DPE UMSDR RFCF NFCF DT UPE NC OM DF DO DR UDO".split(
    " ",
  );

/** Names of gRPC's status codes (grpc/grpc, doc/statuscodes.md). */
const GRPC: readonly string[] =
  "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS UNAUTHENTICATED".split(
    " ",
  );

/** Returns what a number means, or "" where there is no more to say than the number. */
export function wordsFor(field: number, value: number): string {
  if (field === f.F_FLAGS) return flagWords(value);
  if (field === f.F_GRPC_STATUS) return GRPC[value] ?? "";
  if (field === f.F_DURATION) return `${(value / 1000).toLocaleString("en-US")} ms`;
  if (field === f.F_CUT) return "its value was cut";
  return WORDS[field]?.[value] ?? "";
}

function flagWords(value: number): string {
  const bits = value
    .toString(2)
    .split("")
    .reverse()
    .flatMap((bit, i) => (bit === "1" ? [FLAGS[i] ?? `bit ${i}`] : []));
  return bits.join(", ");
}
